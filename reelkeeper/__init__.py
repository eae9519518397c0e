"""Keeps an AI-video service on Cloudflare R2 affordable, and never loses a video."""
