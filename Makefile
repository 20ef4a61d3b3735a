# Two commands for a fresh clone. Everything they set up is in .ci/setup.

.PHONY: demo test
demo:
	@.ci/setup
	@.venv/bin/netlab trace web-0 svc/api

test:
	@.ci/test
