package bbolt

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// TestWhoReadsForLongHoldsUpNobodyWhoWrites has a file outgrow, many times over, what bbolt would map of it, while somebody reads.
func TestWhoReadsForLongHoldsUpNobodyWhoWrites(t *testing.T) {
	t.Parallel()
	if options(0).InitialMmapSize == 0 {
		t.Skip("there is no address space to set aside here")
	}
	s := openStore(t, newPath(t))
	mustApply(t, s, insert("first", []byte("value")))
	err := s.view(func(tx *bolt.Tx) error {
		for i := range 30 {
			if err := s.Apply(t.Context(), insert(fmt.Sprint(i), make([]byte, 1<<20))); err != nil {
				return err
			}
		}
		if n := tx.Bucket([]byte(tokenstore.KindGrant)).Stats().KeyN; n != 1 {
			t.Errorf("the reader sees %d rows; want the one from when it began", n)
		}
		return nil
	})
	if err != nil {
		t.Errorf("a writer waits for a reader: %v", err)
	}
}

func TestNewFileIsSmall(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	s := openStore(t, path)
	mustApply(t, s, insert("a", nil))
	if info, err := os.Stat(path); err != nil || info.Size() > 3<<20 {
		t.Errorf("a new vault has %d bytes, %v", info.Size(), err)
	}
}

func TestSizeSaysWhatIsFreeFromTheStart(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	s := openStore(t, path)
	mustApply(t, s, insert("a", make([]byte, 1<<20)))
	_, err := s.Sweep(t.Context(), tokenstore.KindGrant, time.UnixMilli(2000), 1)
	if err = errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	if total, free, err := openStore(t, path).Size(t.Context()); err != nil || free < 1<<20 || free >= total {
		t.Errorf("Size = %d, %d, %v; want more than 1 MiB of it free", total, free, err)
	}
}

// TestDamagedFileIsGivenBack: bbolt panics while it opens a file whose list of free pages is no such list. What is restored in its place opens then.
func TestDamagedFileIsGivenBack(t *testing.T) {
	t.Parallel()
	f := newFlipped(t)
	path := newPath(t)
	damaged := slices.Clone(f.whole)
	for at := 2 * f.pageSize; at < len(damaged); at += f.pageSize {
		damaged[at+8] ^= 0xff
	}
	if err := os.WriteFile(path, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, time.Second); !errors.Is(err, tokenstore.ErrUnavailable) || !strings.Contains(err.Error(), "damaged") {
		t.Fatalf("Open = %v; want that it is damaged", err)
	}
	if err := os.WriteFile(path, f.whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if f.use(t, path, true, true) {
		t.Error("what was restored does not work")
	}
}

// TestR33FileThatIsReplacedWhileOpenTakesNoWrites: what was written to it would be gone with the process. Reads go on, and writes when it is back.
func TestR33FileThatIsReplacedWhileOpenTakesNoWrites(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(path string) error
		says   string
	}{
		"deleted": {func(string) error { return nil }, "was deleted or moved while it is open"},
		"another file": {func(path string) error {
			return os.WriteFile(path, []byte("restored carelessly"), 0o600)
		}, "was replaced while it is open"},
		"a copy of it": {func(path string) error {
			whole, err := os.ReadFile(path + ".away")
			if err != nil {
				return err
			}
			return os.WriteFile(path, whole, 0o600)
		}, "was replaced while it is open"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !replaceable {
				t.Skip("a file that is open cannot be moved here")
			}
			path := newPath(t)
			s := openStore(t, path)
			mustApply(t, s, insert("a", []byte("value")))
			if err := errors.Join(os.Rename(path, path+".away"), c.change(path)); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if err := s.Apply(t.Context(), insert("b", nil)); !errors.Is(err, tokenstore.ErrUnavailable) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("Apply = %v; want ErrUnavailable that says %q", err, c.says)
				}
			}
			if row, err := s.Get(t.Context(), tokenstore.KindGrant, "a"); err != nil || string(row.Sealed) != "value" {
				t.Errorf("Get = %q, %v", row.Sealed, err)
			}
			if err := os.Rename(path+".away", path); err != nil {
				t.Fatal(err)
			}
			mustApply(t, s, insert("b", nil))
		})
	}
}
