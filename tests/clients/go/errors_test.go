package client

import (
	"context"
	"slices"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	schedulerv1 "github.com/kilonova/kilonova/tests/clients/go/gen/kilonova/scheduler/v1"
)

func TestErrorDetailsAreDecoded(t *testing.T) {
	cell, _ := newCell(t, "s1")
	ctx, cancel := context.WithTimeout(t.Context(), callTime)
	defer cancel()
	scheduler := schedulerv1.NewSchedulerServiceClient(cell.dial(t))
	_, err := scheduler.SelectHosts(ctx, &schedulerv1.SelectHostsRequest{})
	refusal := status.Convert(err)
	if refusal.Code() != codes.InvalidArgument {
		t.Fatalf("an empty request ended with %v", err)
	}
	var info *errdetails.ErrorInfo
	var fields []string
	for _, detail := range refusal.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			info = detail
		case *errdetails.BadRequest:
			for _, violation := range detail.FieldViolations {
				fields = append(fields, violation.Field)
			}
		}
	}
	if info.GetDomain() != "kilonova" || info.GetReason() != "VALIDATION_FAILED" {
		t.Errorf("the reason is %v", info)
	}
	if want := []string{"request_id", "flavor"}; !slices.Equal(fields, want) {
		t.Errorf("the fields named are %v, not %v", fields, want)
	}
}
