"""Traces for people and programs: text, JSON, JUnit."""
