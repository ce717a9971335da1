"""Small things that every room may use: metrics, float16, files, memory, words, drawings."""
