package client

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	logTail = 12
	// What is left for the ends of processes before `go test` loses patience.
	reserve = 10 * time.Second
)

// A process is one child of a test, ended with it.
type process struct {
	name  string
	cmd   *exec.Cmd
	log   string
	ended chan struct{}
}

// start runs a program, without any of the caller's own settings for it, until the test ends.
func start(t *testing.T, name, program string, arguments ...string) *process {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), name+".log"))
	must(t, err)
	defer log.Close()
	within := t.Context()
	if deadline, is := t.Deadline(); is {
		var cancel context.CancelFunc
		within, cancel = context.WithDeadline(within, deadline.Add(-reserve))
		t.Cleanup(cancel)
	}
	cmd := exec.CommandContext(within, program, arguments...)
	cmd.Stdout, cmd.Stderr = log, log
	for _, setting := range os.Environ() {
		if !strings.HasPrefix(setting, "KILONOVA_") && !strings.HasPrefix(setting, "ETCD_") {
			cmd.Env = append(cmd.Env, setting)
		}
	}
	must(t, cmd.Start())
	p := &process{name: name, cmd: cmd, log: log.Name(), ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is in cmd.ProcessState
		close(p.ended)
	}()
	t.Cleanup(func() {
		<-p.ended
		if t.Failed() {
			t.Logf("--- %s (%s)\n%s", p.name, cmd.ProcessState, p.tail())
		}
	})
	return p
}

// tail is the end of its log.
func (p *process) tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-logTail):], "\n")
}

// running is an error once it has ended.
func (p *process) running() error {
	select {
	case <-p.ended:
		return errors.New(p.name + " ended: " + p.cmd.ProcessState.String())
	default:
		return nil
	}
}

// kill ends it at once, as a power cut would.
func (p *process) kill(t *testing.T) {
	t.Helper()
	must(t, p.cmd.Process.Kill())
	<-p.ended
}

// freeze stops it where it is: its connections stay, and nobody answers on them.
func (p *process) freeze(t *testing.T) {
	t.Helper()
	must(t, p.cmd.Process.Signal(syscall.SIGSTOP))
}

// terminate asks it to stop.
func (p *process) terminate(t *testing.T) {
	t.Helper()
	must(t, p.cmd.Process.Signal(syscall.SIGTERM))
}

// exitCode waits for its end.
func (p *process) exitCode(t *testing.T, within time.Duration) int {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(within):
		t.Fatalf("%s still runs after %s", p.name, within)
	}
	return p.cmd.ProcessState.ExitCode()
}

// freeAddresses are loopback addresses that nothing listens on, all different.
func freeAddresses(t *testing.T, count int) []string {
	t.Helper()
	var found []string
	for range count {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		defer listener.Close()
		found = append(found, listener.Addr().String())
	}
	return found
}
