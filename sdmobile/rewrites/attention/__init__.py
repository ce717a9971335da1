"""Attention: recognised where it is written out, and written as what each target runs well."""
