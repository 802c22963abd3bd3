package client

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

const (
	cellName = "go-test"
	service  = "scheduler"
	// How long a process may take to start on a busy machine.
	startTime = 30 * time.Second
	usualPath = "../../../target/debug/kilonova"
)

// A cell is an etcd and the schedulers in it.
type cell struct {
	kilonova string
	etcd     *process
	runEtcd  func() *process
	url      string
	registry *clientv3.Client
}

// A member is a running scheduler.
type member struct {
	*process
	host string
	key  string
}

// newCell starts an etcd and the members named; it skips the test where a program is missing.
func newCell(t *testing.T, hosts ...string) (*cell, map[string]*member) {
	t.Helper()
	kilonova := os.Getenv("KILONOVA_BIN")
	if kilonova == "" {
		kilonova = usualPath
	}
	kilonova = program(t, "kilonova", kilonova)
	etcd := program(t, "etcd", "etcd")
	addresses := freeAddresses(t, 2)
	client, peer := "http://"+addresses[0], "http://"+addresses[1]
	data := t.TempDir()
	c := &cell{kilonova: kilonova, url: client}
	c.runEtcd = func() *process {
		return start(t, "etcd", etcd, "--name=e1", "--data-dir="+data,
			"--listen-client-urls="+client, "--advertise-client-urls="+client,
			"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=e1="+peer)
	}
	c.startEtcd(t)
	c.registry = c.client(t)
	members := map[string]*member{}
	for _, host := range hosts {
		members[host] = c.join(t, host)
	}
	return c, members
}

// program is the full path of a program; without it the test is skipped.
func program(t *testing.T, name, file string) string {
	t.Helper()
	found, err := exec.LookPath(file)
	if err != nil {
		t.Skipf("SKIPPED: %s not found", name)
	}
	full, err := filepath.Abs(found)
	must(t, err)
	return full
}

func (c *cell) startEtcd(t *testing.T) {
	t.Helper()
	c.etcd = c.runEtcd()
	eventually(t, "etcd to be healthy", startTime, func() error { return healthy(c.etcd, c.url+"/health") })
}

// client is a new client of the cell's etcd.
func (c *cell) client(t *testing.T) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{c.url}, Logger: zap.NewNop()})
	must(t, err)
	t.Cleanup(func() { client.Close() })
	return client
}

// join starts a scheduler and waits until it is ready.
func (c *cell) join(t *testing.T, host string, more ...string) *member {
	t.Helper()
	addresses := freeAddresses(t, 2)
	arguments := []string{
		service, "--host", host, "--cell", cellName, "--etcd-endpoints", c.url,
		"--listen", addresses[0], "--http-listen", addresses[1],
		"--log-level", "info,kilonova::access=warn", // not a line for every call
	}
	process := start(t, host, c.kilonova, append(arguments, more...)...)
	ready := "http://" + addresses[1] + "/readyz"
	eventually(t, host+" to be ready", startTime, func() error { return healthy(process, ready) })
	return &member{process, host, "kilonova/v1/" + cellName + "/endpoints/" + service + "/" + host}
}

// dial reaches the schedulers as a user would.
func (c *cell) dial(t *testing.T, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTime)
	defer cancel()
	connection, err := Dial(ctx, c.registry, cellName, service, options...)
	must(t, err)
	t.Cleanup(func() { connection.Close() })
	return connection
}

// isRegistered tells whether etcd has a member.
func (c *cell) isRegistered(t *testing.T, m *member) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTime)
	defer cancel()
	answer, err := c.registry.Get(ctx, m.key, clientv3.WithCountOnly())
	must(t, err)
	return answer.Count == 1
}

// keepRegistered renews a member's lease until the test ends.
func (c *cell) keepRegistered(t *testing.T, m *member) {
	t.Helper()
	answer, err := c.registry.Get(t.Context(), m.key)
	must(t, err)
	renewals, err := c.registry.KeepAlive(t.Context(), clientv3.LeaseID(answer.Kvs[0].Lease))
	must(t, err)
	go func() {
		for range renewals {
		}
	}()
}

func healthy(p *process, url string) error {
	if err := p.running(); err != nil {
		return err
	}
	client := http.Client{Timeout: callTime}
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s says %s", url, answer.Status)
	}
	return nil
}
