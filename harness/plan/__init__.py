"""Workloads as data: operations, plans, what they write, how they are run, how many there are.

A plan is a frozen record with JSON both ways. The interpreter runs it on a mounted volume, the oracle knows from it
what must have survived, strategies and the enumeration write new ones.
"""
