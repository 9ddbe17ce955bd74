"""The storefront at /demo: a small shop in which a person sees what the API sees, and does what shoppers do.

It is part of the API process and calls the functions behind the HTTP routes: what it shows is what a shop would get.
Everything is rendered here, without a build step and without anything from elsewhere, so it works behind a firewall.
"""
