# Two commands for a fresh clone. Everything they set up is in .ci/setup; PYTHON=... chooses an interpreter.

.PHONY: demo test
export PYTHON

demo:
	@.ci/setup
	@.venv/bin/netlab trace web-0 svc/api

test:
	@.ci/test
