"""The report as one HTML page, from what run folders hold to words, figures and markup."""
