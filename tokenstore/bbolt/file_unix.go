//go:build linux || darwin || freebsd

package bbolt

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// replaceable says that a file can be replaced while it is open.
const replaceable = true

// room is how many bytes the file system of a directory has left.
func room(dir string) (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("%s: %w", dir, err)
	}
	return int64(fs.Bavail) * int64(fs.Bsize), nil //nolint:gosec,unconvert,nolintlint // differ between systems, and are no more than a disk has
}

// likeness gives a new file the owner and the mode of another.
func likeness(file *os.File, other os.FileInfo) error {
	if owner, ok := other.Sys().(*syscall.Stat_t); ok {
		if err := file.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
			return err
		}
	}
	return file.Chmod(other.Mode().Perm())
}

// unlock takes bbolt's lock off a file.
func unlock(file *os.File) error {
	return unix.Flock(int(file.Fd()), unix.LOCK_UN)
}

// syncDir has the names in a directory survive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
