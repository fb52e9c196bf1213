package push

import (
	"context"
	"encoding/json"
	"errors"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/push/rules"
	"chancery/clientapi/rest"
	"chancery/storage"
)

// Rules handles GET /_matrix/client/v3/pushrules/.
// Spec: client-server-api/#get_matrixclientv3pushrules
func (h *Handlers) Rules(r *rest.Request) (any, error) {
	set, err := h.set(r.Context(), r.By.User)
	if err != nil {
		return nil, err
	}
	return set.JSON()
}

// Global handles GET /_matrix/client/v3/pushrules/global/.
// Spec: client-server-api/#get_matrixclientv3pushrulesglobal
func (h *Handlers) Global(r *rest.Request) (any, error) {
	set, err := h.set(r.Context(), r.By.User)
	if err != nil {
		return nil, err
	}
	return set.Global(), nil
}

// Rule handles GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}.
// Spec: client-server-api/#get_matrixclientv3pushrulesglobalkindruleid
func (h *Handlers) Rule(r *rest.Request) (any, error) { return h.rule(r) }

// RuleEnabled handles GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled.
// Spec: client-server-api/#get_matrixclientv3pushrulesglobalkindruleidenabled
func (h *Handlers) RuleEnabled(r *rest.Request) (any, error) {
	rule, err := h.rule(r)
	if err != nil {
		return nil, err
	}
	return struct {
		Enabled bool `json:"enabled"`
	}{rule.Enabled}, nil
}

// RuleActions handles GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions.
// Spec: client-server-api/#get_matrixclientv3pushrulesglobalkindruleidactions
func (h *Handlers) RuleActions(r *rest.Request) (any, error) {
	rule, err := h.rule(r)
	if err != nil {
		return nil, err
	}
	actions := rule.Actions
	if actions == nil {
		actions = []json.RawMessage{}
	}
	return struct {
		Actions []json.RawMessage `json:"actions"`
	}{actions}, nil
}

// PutRule handles PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}.
// Spec: client-server-api/#put_matrixclientv3pushrulesglobalkindruleid
func (h *Handlers) PutRule(r *rest.Request) (any, error) {
	var body struct {
		Actions    *[]json.RawMessage `json:"actions"`
		Conditions []rules.Condition  `json:"conditions"`
		Pattern    *string            `json:"pattern"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Actions == nil {
		return nil, missingParam.WithMessage("actions is missing")
	}
	rule := rules.Rule{ID: r.Path("ruleId"), Actions: *body.Actions, Conditions: body.Conditions, Pattern: body.Pattern}
	return rest.Empty, h.change(r, func(set *rules.Set, kind rules.Kind) error {
		return set.Put(kind, rule, r.Query("before"), r.Query("after"))
	})
}

// DeleteRule handles DELETE /_matrix/client/v3/pushrules/global/{kind}/{ruleId}.
// Spec: client-server-api/#delete_matrixclientv3pushrulesglobalkindruleid
func (h *Handlers) DeleteRule(r *rest.Request) (any, error) {
	return rest.Empty, h.change(r, func(set *rules.Set, kind rules.Kind) error { return set.Delete(kind, r.Path("ruleId")) })
}

// PutRuleEnabled handles PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled.
// Spec: client-server-api/#put_matrixclientv3pushrulesglobalkindruleidenabled
func (h *Handlers) PutRuleEnabled(r *rest.Request) (any, error) {
	var body struct {
		Enabled *bool `json:"enabled"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Enabled == nil {
		return nil, missingParam.WithMessage("enabled is missing")
	}
	return rest.Empty, h.change(r, func(set *rules.Set, kind rules.Kind) error {
		return set.SetEnabled(kind, r.Path("ruleId"), *body.Enabled)
	})
}

// PutRuleActions handles PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions.
// Spec: client-server-api/#put_matrixclientv3pushrulesglobalkindruleidactions
func (h *Handlers) PutRuleActions(r *rest.Request) (any, error) {
	var body struct {
		Actions *[]json.RawMessage `json:"actions"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Actions == nil {
		return nil, missingParam.WithMessage("actions is missing")
	}
	return rest.Empty, h.change(r, func(set *rules.Set, kind rules.Kind) error {
		return set.SetActions(kind, r.Path("ruleId"), *body.Actions)
	})
}

// set gives the user's rules as they are now.
func (h *Handlers) set(ctx context.Context, user id.UserID) (*rules.Set, error) {
	stored, err := h.store.AccountData.ByType(ctx, user, "", rules.Type)
	if err != nil {
		return nil, err
	}
	if stored == nil || stored.Deleted {
		return rules.Default(user), nil
	}
	return rules.Parse(user, stored.Content)
}

func kindOf(r *rest.Request) (rules.Kind, error) {
	kind := rules.Kind(r.Path("kind"))
	for _, known := range rules.Kinds {
		if kind == known {
			return kind, nil
		}
	}
	return "", mautrix.MInvalidParam.WithMessage("There is no such kind of rule")
}

func (h *Handlers) rule(r *rest.Request) (*rules.Rule, error) {
	set, err := h.set(r.Context(), r.By.User)
	if err != nil {
		return nil, err
	}
	// A kind that does not exist has no rules: 404, as for any rule that is not there.
	rule := set.Rule(rules.Kind(r.Path("kind")), r.Path("ruleId"))
	if rule == nil {
		return nil, asRefusal(rules.ErrNoRule)
	}
	return rule, nil
}

// change rewrites the user's rules. Two changes at once come one after the other: each reads inside its transaction.
func (h *Handlers) change(r *rest.Request, change func(*rules.Set, rules.Kind) error) error {
	kind, err := kindOf(r)
	if err != nil {
		return err
	}
	err = h.store.Do(r.Context(), func(ctx context.Context) error {
		set, err := h.set(ctx, r.By.User)
		if err != nil {
			return err
		}
		if err := change(set, kind); err != nil {
			return err
		}
		content, err := set.JSON()
		if err != nil {
			return err
		}
		return h.store.AccountData.Put(ctx, storage.AccountData{UserID: r.By.User, Type: rules.Type, Content: content})
	})
	return asRefusal(err)
}

func asRefusal(err error) error {
	switch {
	case errors.Is(err, rules.ErrNoRule):
		return mautrix.MNotFound.WithMessage("There is no such rule")
	case errors.Is(err, rules.ErrDefault):
		return mautrix.MInvalidParam.WithMessage("Default rules cannot be made or removed")
	case errors.Is(err, rules.ErrNoAnchor):
		return mautrix.MNotFound.WithMessage("There is no rule before or after which this one could go")
	case errors.Is(err, rules.ErrTooMany):
		return mautrix.MLimitExceeded.WithStatus(400).WithMessage("There are too many rules")
	case errors.Is(err, rules.ErrBadRule):
		return mautrix.MInvalidParam.WithMessage("The rule is malformed")
	}
	return err
}
