package client

import (
	"testing"
	"time"
)

// must ends the test on an error that has nothing to do with what it tests.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually asks until there is no error, and says how long that took.
func eventually(t *testing.T, what string, within time.Duration, ask func() error) time.Duration {
	t.Helper()
	begun := time.Now()
	for {
		err := ask()
		if err == nil {
			return time.Since(begun)
		}
		if time.Since(begun) > within {
			t.Fatalf("after %s still waiting for %s: %v", within, what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
