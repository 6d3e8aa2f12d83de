"""Callers that wait until data planes have dealt with a revision, and what each has done with it.

It owns the waiting calls and their bounds. It may import `controlplane.fleet`,
`controlplane.errors` and `controlplane.catalog`.
"""
