# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations


class ModuleDocFragment:
    """The object store of a stack."""

    DOCUMENTATION = r"""
options:
  object_store:
    description:
      - Address of the object store, V(file:///FOLDER) or V(s3://BUCKET/PREFIX).
      - Objects are written once, by conditional puts, and never overwritten.
      - Credentials for S3 come from the AWS session of the environment.
    type: str
    required: true
  object_store_endpoint:
    description:
      - Endpoint of an S3 server other than AWS.
    type: str
requirements:
  - boto3 (for V(s3://) addresses)
"""
