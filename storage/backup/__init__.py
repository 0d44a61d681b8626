"""Backups: one file that is a static log for any auditor, and holds sealed payloads besides."""
