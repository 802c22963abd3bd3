package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	basev1 "github.com/kilonova/kilonova/tests/clients/go/gen/kilonova/base/v1"
)

const (
	workers  = 8
	callTime = 2 * time.Second
	pause    = time.Millisecond
)

// A call is one Ping and what came of it.
type call struct {
	begun, ended time.Time
	host         string
	err          error
}

// ping makes one call, and says which member answered.
func ping(ctx context.Context, connection *grpc.ClientConn) call {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	begun := time.Now()
	answer, err := basev1.NewBaseServiceClient(connection).Ping(ctx, &basev1.PingRequest{Payload: "go"})
	return call{begun, time.Now(), answer.GetHost(), err}
}

// traffic is calls without end, some of them always under way.
type traffic struct {
	mutex sync.Mutex
	calls []call
}

// send begins traffic; it ends with the test, or when `stop` is called, which waits for the calls under way.
func send(t *testing.T, connection *grpc.ClientConn) (sent *traffic, stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	sent = &traffic{}
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for ctx.Err() == nil {
				// The end of traffic is no reason for a call to fail.
				one := ping(context.WithoutCancel(ctx), connection)
				sent.mutex.Lock()
				sent.calls = append(sent.calls, one)
				sent.mutex.Unlock()
				time.Sleep(pause)
			}
		})
	}
	stop = func() {
		cancel()
		all.Wait()
	}
	t.Cleanup(stop)
	return sent, stop
}

// since is the calls that began at a time or later.
func (s *traffic) since(moment time.Time) []call {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	var found []call
	for _, one := range s.calls {
		if !one.begun.Before(moment) {
			found = append(found, one)
		}
	}
	return found
}

// reaches is an error until a member has answered a call that began at a time or later.
func (s *traffic) reaches(m *member, moment time.Time) error {
	for _, one := range s.since(moment) {
		if one.host == m.host {
			return nil
		}
	}
	return fmt.Errorf("%s has answered none of %d calls", m.host, len(s.since(moment)))
}

// newest is the calls that ended last: enough that each member would be among them.
func (s *traffic) newest() []call {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return slices.Clone(s.calls[max(0, len(s.calls)-20*workers):])
}

// avoids is an error while a member answers some of the newest calls.
func (s *traffic) avoids(m *member) error {
	for _, one := range s.newest() {
		if one.host == m.host {
			return fmt.Errorf("%s still answers", m.host)
		}
	}
	return nil
}

// isIll is an error until a call fails that began at a time or later.
func (s *traffic) isIll(moment time.Time) error {
	if len(failed(s.since(moment))) == 0 {
		return errors.New("no call has failed")
	}
	return nil
}

// isWell is an error while some of the newest calls failed.
func (s *traffic) isWell() error {
	if bad := failed(s.newest()); len(bad) > 0 {
		return bad[0].err
	}
	return nil
}

// goesOn waits until many more calls have ended.
func (s *traffic) goesOn(t *testing.T) {
	t.Helper()
	now := time.Now()
	eventually(t, "traffic to go on", callTime*workers, func() error {
		if done := len(s.since(now)); done < 100*workers {
			return fmt.Errorf("only %d calls have ended", done)
		}
		return nil
	})
}

// stands is an error while calls end, and none once every worker waits for a member that does not answer.
func (s *traffic) stands() error {
	const silence = callTime / 8
	calls := s.newest()
	if last := calls[len(calls)-1]; time.Since(last.ended) < silence {
		return fmt.Errorf("a call ended less than %s ago", silence)
	}
	return nil
}

// failed is those that failed.
func failed(calls []call) []call {
	var found []call
	for _, one := range calls {
		if one.err != nil {
			found = append(found, one)
		}
	}
	return found
}

// noneFailed complains of every call that failed.
func noneFailed(t *testing.T, calls []call) {
	t.Helper()
	if bad := failed(calls); len(bad) > 0 {
		t.Errorf("%d of %d calls failed, the first with %v", len(bad), len(calls), bad[0].err)
	}
}
