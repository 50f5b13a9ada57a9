package testenv

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// runToTheEnd starts Caddy, and ends it with the test.
func (w *World) runToTheEnd() {
	w.t.Helper()
	w.run()
	w.t.Cleanup(func() {
		_ = w.cmd.Process.Signal(syscall.SIGCONT) // it may be halted
		w.end(syscall.SIGTERM)
		if w.t.Failed() {
			w.t.Logf("Caddy's log, its end:\n%s", tail(w.log.String(), 1500))
		}
	})
}

// run starts Caddy and waits until it answers.
func (w *World) run() {
	w.t.Helper()
	w.Launch()
	w.Await()
}

// Launch starts Caddy, and does not wait for it.
func (w *World) Launch() {
	w.t.Helper()
	w.cmd = w.Command(context.Background(), "run", "--adapter", "caddyfile", "--config", w.write(w.Caddyfile()))
	w.cmd.Stdout, w.cmd.Stderr = w.log, w.log
	if err := w.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.pid.Store(int64(w.cmd.Process.Pid))
	exited := make(chan struct{})
	cmd := w.cmd
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	w.exited = exited
}

// Await waits until Caddy answers.
func (w *World) Await() {
	w.t.Helper()
	Eventually(w.t, "Caddy to answer", func() bool {
		select {
		case <-w.exited:
			w.t.Fatalf("Caddy ended:\n%s", tail(w.log.String(), 6000))
		default:
		}
		return answers(cmp.Or(w.site, w.URL)+"/.well-known/oauth-authorization-server") && answers(w.AdminURL()+"/config/") // which waits until the config is the running one
	})
}

func answers(address string) bool {
	resp, err := http.Get(address)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// end ends Caddy with a signal, and waits.
func (w *World) end(sig syscall.Signal) time.Duration {
	w.t.Helper()
	start := time.Now()
	_ = w.cmd.Process.Signal(sig)
	select {
	case <-w.exited:
	case <-time.After(40 * time.Second):
		_ = w.cmd.Process.Kill()
		<-w.exited
		w.t.Errorf("Caddy did not leave within 40 s of %s", sig)
	}
	return time.Since(start)
}

// Terminate asks Caddy to leave, and says how long it took.
func (w *World) Terminate() time.Duration { w.t.Helper(); return w.end(syscall.SIGTERM) }

// Kill ends Caddy without warning.
func (w *World) Kill() { w.t.Helper(); w.end(syscall.SIGKILL) }

// Run starts Caddy again after Terminate or Kill.
func (w *World) Run() { w.t.Helper(); w.run() }

// PID is Caddy's process.
func (w *World) PID() int { return int(w.pid.Load()) }

// Stop halts Caddy's process where it stands, and returns when it does.
func (w *World) Stop() {
	w.t.Helper()
	w.signal(syscall.SIGSTOP)
	Eventually(w.t, "Caddy to halt", func() bool { return state(w.PID()) == "T" })
}

// Continue lets a halted process go on.
func (w *World) Continue() {
	w.t.Helper()
	w.signal(syscall.SIGCONT)
}

func (w *World) signal(sig syscall.Signal) {
	w.t.Helper()
	if err := w.cmd.Process.Signal(sig); err != nil {
		w.t.Fatal(err)
	}
}

// stat are the fields of a process in /proc behind its name, from its state on, or none when it is gone.
func stat(pid int) []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
}

func state(pid int) string {
	if fields := stat(pid); len(fields) > 0 {
		return fields[0]
	}
	return ""
}

// CPU is how much time of processors a process has used. Linux counts it in hundredths of a second.
func CPU(pid int) time.Duration { return spent(stat(pid), 11, 12) } // in user mode, and in the kernel

// family is how much a process, its children, and those that it had, have used.
func family(pid int) time.Duration {
	sum := spent(stat(pid), 11, 12, 13, 14)
	files, _ := filepath.Glob("/proc/[0-9]*") // the pattern is good
	for _, file := range files {
		if child, err := strconv.Atoi(filepath.Base(file)); err == nil && parent(child) == pid {
			sum += CPU(child)
		}
	}
	return sum
}

// parent is the process that has started another.
func parent(pid int) int {
	if fields := stat(pid); len(fields) > 1 {
		n, _ := strconv.Atoi(fields[1]) // Linux writes a number
		return n
	}
	return 0
}

// spent adds fields of stat that count hundredths of seconds.
func spent(fields []string, which ...int) (sum time.Duration) {
	for _, i := range which {
		if i < len(fields) {
			n, _ := strconv.Atoi(fields[i]) // Linux writes numbers
			sum += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return sum
}

// socketOf finds the socket of this machine at one end of a connection between two addresses of it. It is empty where the system does not tell, in /proc.
func socketOf(end, other string) string {
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return ""
	}
	near, far := loopback(end), loopback(other)
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); len(fields) > 9 && fields[1] == near && fields[2] == far {
			return fields[9]
		}
	}
	return ""
}

// loopback is an address of 127.0.0.1 as /proc writes it.
func loopback(address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("0100007F:%04X", number)
}

// holdsSocket says whether this Caddy has the socket.
func (w *World) holdsSocket(inode string) bool {
	dir := fmt.Sprintf("/proc/%d/fd", w.PID())
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && target == "socket:["+inode+"]" {
			return true
		}
	}
	return false
}
