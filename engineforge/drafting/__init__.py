"""Specs for people to begin with: of a command line of trtexec, or of a model. Text only: what is
written where is the command line's."""
