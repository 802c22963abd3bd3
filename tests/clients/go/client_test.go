package client

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// After a kill, calls that begin this much later succeed.
	noticeKill = 500 * time.Millisecond
	// Once a member is ready, or says that it is not, calls follow within this time.
	noticeChange = 2 * time.Second
	// Keepalive gives a silent member up after 13 s.
	noticeSilence = 15 * time.Second
	// A lease lives 15 s, and etcd ends it a little late.
	leaseTime = 30 * time.Second
)

func TestEveryMemberTakesItsTurn(t *testing.T) {
	cell, members := newCell(t, "s1", "s2", "s3")
	connection := cell.dial(t)
	sent, stop := send(t, connection)
	for _, m := range members {
		eventually(t, m.host+" to be called", noticeChange, func() error { return sent.reaches(m, time.Time{}) })
	}
	stop()
	noneFailed(t, sent.since(time.Time{}))

	const rounds = 100
	counts := map[string]int{}
	for range rounds * len(members) {
		counts[ping(t.Context(), connection).host]++
	}
	for host := range members {
		if counts[host] != rounds {
			t.Errorf("%s answered %d of %d calls, not every third: %v", host, counts[host], rounds*len(members), counts)
		}
	}
}

func TestKillFailsOnlyWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	cell, members := newCell(t, "s1", "s2", "s3")
	victim := members["s1"]
	sent, stop := send(t, cell.dial(t, grpc.WithDisableRetry()))
	eventually(t, "s1 to be called", noticeChange, func() error { return sent.reaches(victim, time.Time{}) })
	sent.goesOn(t)
	killed := time.Now()
	victim.kill(t)
	eventually(t, "the lease of s1 to end", leaseTime, func() error { return gone(t, cell, victim) })
	sent.goesOn(t)
	stop()

	noneFailed(t, sent.since(killed.Add(noticeKill)))
	bad := failed(sent.since(time.Time{}))
	if len(bad) > workers {
		t.Errorf("%d calls failed, and at most %d were under way; the last: %v", len(bad), workers, bad[len(bad)-1].err)
	}
	for _, one := range bad {
		if status.Code(one.err) != codes.Unavailable {
			t.Errorf("a call to a killed member failed with %v", one.err)
		}
	}
	t.Logf("%d calls, %d failed", len(sent.since(time.Time{})), len(bad))
}

func TestKillFailsNothingThatIsSentAgain(t *testing.T) {
	cell, members := newCell(t, "s1", "s2")
	victim := members["s1"]
	answers := &answers{}
	sent, stop := send(t, cell.dial(t, grpc.WithStatsHandler(answers)))
	eventually(t, "s1 to be called", noticeChange, func() error { return sent.reaches(victim, time.Time{}) })
	victim.freeze(t)
	eventually(t, "every worker to wait for s1", callTime/2, sent.stands)
	begun := int(answers.begun.Load())
	victim.kill(t)
	sent.goesOn(t)
	stop()
	if bad := failed(sent.since(time.Time{})); len(bad) > begun {
		t.Errorf("%d calls failed, and only %d answers had begun; the last: %v", len(bad), begun, bad[len(bad)-1].err)
	}
}

func TestSilentMemberIsLeft(t *testing.T) {
	t.Parallel()
	cell, members := newCell(t, "s1", "s2")
	victim := members["s1"]
	sent, stop := send(t, cell.dial(t))
	eventually(t, "s1 to be called", noticeChange, func() error { return sent.reaches(victim, time.Time{}) })
	// Etcd goes on hearing of it, as when only the way between it and us is cut.
	cell.keepRegistered(t, victim)
	frozen := time.Now()
	victim.freeze(t)
	eventually(t, "calls to run out of time", 2*callTime, func() error { return sent.isIll(frozen) })
	eventually(t, "s1 to be left", noticeSilence-time.Since(frozen), sent.isWell)
	left := time.Now()
	sent.goesOn(t)
	stop()
	noneFailed(t, sent.since(left))
	if !cell.isRegistered(t, victim) {
		t.Error("s1 was left only when it had gone from the registry")
	}
	t.Logf("left after %s, when %d calls had failed", left.Sub(frozen), len(failed(sent.since(frozen))))
}

func TestNewMemberIsCalled(t *testing.T) {
	cell, _ := newCell(t, "s1", "s2")
	sent, stop := send(t, cell.dial(t, grpc.WithDisableRetry()))
	sent.goesOn(t)
	joined := cell.join(t, "s3")
	took := eventually(t, "s3 to be called", noticeChange, func() error { return sent.reaches(joined, time.Time{}) })
	stop()
	noneFailed(t, sent.since(time.Time{}))
	t.Logf("called %s after it was ready", took)
}

func TestDrainCostsNoCall(t *testing.T) {
	cell, _ := newCell(t, "s1", "s2")
	// Long enough in the registry, and answering, to show that health alone turns callers away.
	leaving := cell.join(t, "s3", "--set", "drain.settle=3s")
	sent, stop := send(t, cell.dial(t, grpc.WithDisableRetry()))
	eventually(t, "s3 to be called", noticeChange, func() error { return sent.reaches(leaving, time.Time{}) })
	leaving.terminate(t)
	eventually(t, "s3 to be left", noticeChange, func() error { return sent.avoids(leaving) })
	if !cell.isRegistered(t, leaving) {
		t.Error("s3 was left only when it had gone from the registry")
	}
	if code := leaving.exitCode(t, startTime); code != 0 {
		t.Errorf("s3 ended with %d", code)
	}
	sent.goesOn(t)
	stop()
	noneFailed(t, sent.since(time.Time{}))
}

func TestRollingRestartCostsNoCall(t *testing.T) {
	cell, members := newCell(t, "s1", "s2")
	sent, stop := send(t, cell.dial(t, grpc.WithDisableRetry()))
	sent.goesOn(t)
	for host, m := range members {
		m.terminate(t)
		if code := m.exitCode(t, startTime); code != 0 {
			t.Errorf("%s ended with %d", host, code)
		}
		again, back := time.Now(), cell.join(t, host)
		eventually(t, host+" to be called again", noticeChange, func() error { return sent.reaches(back, again) })
	}
	stop()
	noneFailed(t, sent.since(time.Time{}))
}

func TestNobodyLeftIsSaidAtOnce(t *testing.T) {
	cell, members := newCell(t, "s1")
	connection := cell.dial(t)
	if one := ping(t.Context(), connection); one.err != nil {
		t.Fatal(one.err)
	}
	members["s1"].terminate(t)
	members["s1"].exitCode(t, startTime)
	one := ping(t.Context(), connection)
	if took := time.Since(one.begun); status.Code(one.err) != codes.Unavailable || took > callTime/2 {
		t.Errorf("with no member left a call ended after %s with %v", took, one.err)
	}
	cell.join(t, "s2")
	eventually(t, "s2 to be called", noticeChange, func() error { return ping(t.Context(), connection).err })
}

func TestEtcdThatIsAwayIsAnErrorOfDial(t *testing.T) {
	cell, _ := newCell(t)
	cell.etcd.kill(t)
	ctx, cancel := context.WithTimeout(t.Context(), callTime)
	defer cancel()
	if _, err := Dial(ctx, cell.registry, cellName, service); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without etcd Dial said %v", err)
	}
}

func TestFirstMemberIsWaitedFor(t *testing.T) {
	cell, _ := newCell(t)
	sent, stop := send(t, cell.dial(t))
	first := cell.join(t, "s1")
	eventually(t, "s1 to be called", noticeChange, func() error { return sent.reaches(first, time.Time{}) })
	stop()
	for _, one := range failed(sent.since(time.Time{})) {
		if status.Code(one.err) != codes.DeadlineExceeded {
			t.Errorf("before any member was there a call ended with %v", one.err)
		}
	}
}

func TestEtcdMayGoAndComeBack(t *testing.T) {
	cell, _ := newCell(t, "s1", "s2")
	sent, stop := send(t, cell.dial(t, grpc.WithDisableRetry()))
	sent.goesOn(t)
	cell.etcd.kill(t)
	sent.goesOn(t)
	cell.startEtcd(t)
	joined := cell.join(t, "s3")
	// etcd's client reconnects in its own time.
	eventually(t, "s3 to be called", startTime, func() error { return sent.reaches(joined, time.Time{}) })
	stop()
	noneFailed(t, sent.since(time.Time{}))
}

// gone is an error while a member is registered.
func gone(t *testing.T, c *cell, m *member) error {
	t.Helper()
	if c.isRegistered(t, m) {
		return errors.New(m.host + " is registered")
	}
	return nil
}
