// The seed's program: cmd.Start() without cmd.Wait(), ten times a second, as PID 1 of a container.
//
//	seed COUNT LOG       starts COUNT children, 100 ms apart, and sleeps
//	seed child N LOG     is one of them: appends "pid boottime code" to LOG and exits with the code
package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

const clockBoottime = 7

func boottime() int64 {
	var now syscall.Timespec
	_, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockBoottime, uintptr(unsafe.Pointer(&now)), 0)
	if errno != 0 {
		panic(errno)
	}
	return now.Nano()
}

func child(number int, path string) {
	code := number * 7 % 251
	log, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(log, "%d %d %d\n", os.Getpid(), boottime(), code)
	os.Exit(code)
}

func main() {
	if os.Args[1] == "child" {
		number, _ := strconv.Atoi(os.Args[2])
		child(number, os.Args[3])
	}
	count, _ := strconv.Atoi(os.Args[1])
	for number := 1; number <= count; number++ {
		cmd := exec.Command(os.Args[0], "child", strconv.Itoa(number), os.Args[2])
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	time.Sleep(time.Hour)
}
