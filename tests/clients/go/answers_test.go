package client

import (
	"context"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc/stats"
)

// answers counts the Pings whose answer has begun and not ended: gRPC does not send those again (gRFC A6).
type answers struct {
	begun atomic.Int64
}

type hasBegun struct{}

func (a *answers) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	if !strings.HasSuffix(info.FullMethodName, "/Ping") {
		return ctx
	}
	return context.WithValue(ctx, hasBegun{}, &atomic.Bool{})
}

func (a *answers) HandleRPC(ctx context.Context, event stats.RPCStats) {
	begun, isPing := ctx.Value(hasBegun{}).(*atomic.Bool)
	if !isPing {
		return
	}
	switch event.(type) {
	case *stats.InHeader:
		if begun.CompareAndSwap(false, true) {
			a.begun.Add(1)
		}
	case *stats.End:
		if begun.Load() {
			a.begun.Add(-1)
		}
	}
}

func (a *answers) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (a *answers) HandleConn(context.Context, stats.ConnStats) {}
