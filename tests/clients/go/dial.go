// Package client reaches the services of a Kilonova cell with what grpc-go and etcd bring along: etcd's resolver, round
// robin, health checks, retries and keepalive. Nothing here is Kilonova's own but the key its members register under.
package client

//go:generate buf generate

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/resolver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // without it healthCheckConfig does nothing
	"google.golang.org/grpc/keepalive"
)

// Calls go in turn to every member that says it is ready. What ended with UNAVAILABLE is sent again, to the next one.
// That may be a call whose member died over it, so whatever changes something has to carry a request id.
const serviceConfig = `{
	"loadBalancingConfig": [{"round_robin": {}}],
	"healthCheckConfig": {"serviceName": ""},
	"methodConfig": [{
		"name": [{}],
		"retryPolicy": {
			"maxAttempts": 4,
			"initialBackoff": "0.05s",
			"maxBackoff": "1s",
			"backoffMultiplier": 2,
			"retryableStatusCodes": ["UNAVAILABLE"]
		}
	}]
}`

// Dial connects to every member of a service, and follows as they come and go. It is an error if etcd does not answer
// before the context ends. Give each call a deadline: where no member is registered yet, a call waits for the first.
func Dial(ctx context.Context, etcd *clientv3.Client, cell, service string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	members := "kilonova/v1/" + cell + "/endpoints/" + service
	etcdResolver, err := resolver.NewBuilder(etcd)
	if err != nil {
		return nil, err
	}
	usual := []grpc.DialOption{
		grpc.WithResolvers(etcdResolver),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// Otherwise it is the key with %2F for each slash, and a server in Rust takes no % in an authority.
		grpc.WithAuthority(service),
		// A member whose machine froze is left after 13 s of silence.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
		// A connection that went idle would need etcd for its next call.
		grpc.WithIdleTimeout(0),
	}
	connection, err := grpc.NewClient("etcd:///"+members, append(usual, options...)...)
	if err != nil {
		return nil, err
	}
	// The resolver waits for etcd without end, and calls with it, whatever their deadlines: ask first.
	if _, err := etcd.Get(ctx, members, clientv3.WithCountOnly()); err != nil {
		connection.Close()
		return nil, err
	}
	connection.Connect()
	return connection, nil
}
