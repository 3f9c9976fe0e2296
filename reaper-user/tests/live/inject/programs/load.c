/* Runs children and checks their statuses; each leaves an orphan behind. */
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int number = 1;; number++) {
        char command[64];
        int status = -1;
        snprintf(command, sizeof command, "sleep 0 & exit %d", number % 100);
        pid_t child = fork();
        if (child == 0) {
            execl("/bin/sh", "sh", "-c", command, (char *)NULL);
            _exit(127);
        }
        if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != number % 100)
            printf("fault %d %d\n", number, status);
        printf("tick %d\n", number);
        usleep(20000);
    }
}
