"""Rules that recognise operators written out in primitive operations, and write the operator instead.

They run first, so that every other rule, and every backend, sees `aten.group_norm` and not its spelling. Nothing here
knows a spelling: a site is found by its anchor, the one node that every spelling has (a root, a sigmoid, an error
function). The sub-graph around it is evaluated in float64 on random operands, and it is raised if it computes what the
operator computes.
"""
