package calls

import "net/http"

// tokenService trades OpenID tokens for tokens of the focus.
type tokenService struct{}

func (s *tokenService) routes(*http.ServeMux, string) {}
