"""Decides what has to change in the cluster. Pure.

It owns the rules for deploying, replacing, scaling, putting to sleep, evicting and deleting the
applications of models. It keeps no state. It may import the pure modules of `dataplane.agent`,
`dataplane.snapshot`, and the generated messages.
"""
