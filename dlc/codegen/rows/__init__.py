"""Rows: reductions with everything computed along the way, and reductions over windows of neighbours."""
