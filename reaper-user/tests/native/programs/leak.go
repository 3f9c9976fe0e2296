// Forks a child in the way that its argument names, in leakHere, and then waits to be killed.
package main

import (
	"os"
	"os/exec"
	"syscall"
	"time"
)

//go:noinline
func leakHere(how string) {
	switch how {
	case "exec":
		exec.Command("/bin/true").Start() // exec
	case "start":
		os.StartProcess("/bin/true", []string{"true"}, &os.ProcAttr{}) // start
	case "fork-exec":
		syscall.ForkExec("/bin/true", []string{"true"}, nil) // fork-exec
	}
}

//go:noinline
func through(how string, depth int) {
	if depth > 0 {
		through(how, depth-1)
		return
	}
	leakHere(how)
}

func main() {
	done := make(chan bool)
	go func() {
		through(os.Args[1], 3)
		done <- true
	}()
	<-done
	// Something else than waiting for nobody, which Go takes for a deadlock.
	time.Sleep(time.Hour)
}
