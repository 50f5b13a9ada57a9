//go:build unix

package caddyoauthproxy

import (
	"os/exec"
	"syscall"
)

// killWhole has a program ended together with those that it has started.
func killWhole(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
