"""NETWORKS OF OTHERS: masked language models of `transformers` behind the interface of `model.backbone`."""
