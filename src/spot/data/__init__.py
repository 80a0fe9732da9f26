"""Rows and artifacts on disk, where questions come from, and texts: chat, templates, edits."""
