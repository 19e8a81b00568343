# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations


class ModuleDocFragment:
    """The revenue authority's gateway."""

    DOCUMENTATION = r"""
options:
  gateway_url:
    description:
      - Base address of the gateway; its host and port must be pinned in the policy.
      - Plain V(http://) is accepted on the loopback interface only.
    type: str
    required: true
  gateway_ca:
    description:
      - PEM file of the certificate authorities that the gateway's certificate is verified with.
      - The default is the system's own.
    type: path
  gateway_client_cert:
    description:
      - PEM file of the client certificate.
    type: path
  gateway_client_key:
    description:
      - PEM file of the client certificate's private key.
    type: path
  gateway_token:
    description:
      - Bearer token for the gateway.
    type: str
"""
