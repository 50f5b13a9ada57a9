//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// process is a program that is kept running.
type process struct {
	name, address string
	logFile       string
	command       func() *exec.Cmd
	ready         func(context.Context) error // asked until it is nil
	goodbye       os.Signal                   // asks it to end

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{}
}

const (
	// startTime is how long a process may take until it is ready, and stopTime until it has ended.
	startTime, stopTime = time.Minute, 20 * time.Second

	// comeback is after how long a process that has died is started again: which is sooner than those give up who wait for the database.
	comeback = 2 * time.Second
)

// start starts the process, and waits until it is ready.
func (p *process) start(ctx context.Context) error {
	log, err := os.OpenFile(p.logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the process has its own
	cmd := p.command()
	cmd.Stdout, cmd.Stderr = log, log
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setpgid = true // a Ctrl-C at the terminal is for this process, which stops the others in order
	lifeline, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	exited := make(chan struct{})
	p.mu.Lock()
	p.cmd, p.exited = cmd, exited
	p.mu.Unlock()
	go func() {
		_ = cmd.Wait()
		_ = lifeline.Close()
		close(exited)
	}()

	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		err := p.ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-exited:
			return fmt.Errorf("%s has ended (%s) instead of getting ready: see %s", p.name, cmd.ProcessState, p.logFile)
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("%s is not ready after %s: %w: see %s", p.name, startTime, err, p.logFile)
			}
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// keep starts the process again whenever it has died.
func (p *process) keep(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.exited:
		}
		fmt.Printf("%s, process %d, has ended (%s). It comes back in %s.\n", p.name, p.pid(), p.cmd.ProcessState, comeback)
		select {
		case <-ctx.Done():
			return
		case <-time.After(comeback):
		}
		if err := p.start(ctx); err != nil {
			if ctx.Err() == nil {
				fmt.Println(err)
			}
			continue
		}
		fmt.Printf("%s is back, as process %d.\n", p.name, p.pid())
	}
}

// stop ends the process, if need be by force.
func (p *process) stop() {
	if p.exited == nil {
		return
	}
	_ = p.cmd.Process.Signal(p.goodbye)
	select {
	case <-p.exited:
	case <-time.After(stopTime):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

func (p *process) pid() int { return p.cmd.Process.Pid }
