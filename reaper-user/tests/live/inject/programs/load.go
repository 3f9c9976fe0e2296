// Runs children and checks their statuses, beside goroutines that compute; each child leaves an orphan behind.
package main

import (
	"fmt"
	"os/exec"
	"time"
)

func fib(n int) int {
	if n < 2 {
		return n
	}
	return fib(n-1) + fib(n-2)
}

func main() {
	for i := 0; i < 4; i++ {
		go func() {
			for {
				if fib(22) != 17711 {
					fmt.Println("fault fib")
				}
				time.Sleep(time.Millisecond)
			}
		}()
	}
	for number := 1; ; number++ {
		command := exec.Command("sh", "-c", fmt.Sprintf("sleep 0 & exit %d", number%100))
		err := command.Run()
		if command.ProcessState == nil || command.ProcessState.ExitCode() != number%100 {
			fmt.Println("fault", number, err)
		}
		fmt.Println("tick", number)
		time.Sleep(20 * time.Millisecond)
	}
}
