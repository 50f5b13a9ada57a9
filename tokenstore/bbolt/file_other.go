//go:build !linux && !darwin && !freebsd

package bbolt

import (
	"errors"
	"os"
)

// replaceable says that a file can be replaced while it is open.
const replaceable = false

func room(string) (int64, error)           { return 0, errors.ErrUnsupported }
func likeness(*os.File, os.FileInfo) error { return errors.ErrUnsupported }
func unlock(*os.File) error                { return errors.ErrUnsupported }
func syncDir(string) error                 { return errors.ErrUnsupported }
