"""Masked language models of `transformers` behind the interface of `model.backbone`."""
