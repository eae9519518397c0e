"""Slack, through slack-sdk: a bot that posts messages and pictures, or an incoming webhook that posts messages."""

from reelkeeper.adapters.slack.blocks import lay_out
from reelkeeper.adapters.slack.client import Bot, Webhook

__all__ = ["Bot", "Webhook", "lay_out"]
