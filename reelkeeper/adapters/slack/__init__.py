"""Slack, through slack-sdk: a bot or an incoming webhook posts messages, with buttons for people."""

from reelkeeper.adapters.slack.blocks import lay_out
from reelkeeper.adapters.slack.clicks import answer, read
from reelkeeper.adapters.slack.client import Bot, Webhook

__all__ = ["Bot", "Webhook", "answer", "lay_out", "read"]
