# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations


class ModuleDocFragment:
    """The PostgreSQL of a stack."""

    DOCUMENTATION = r"""
options:
  database_url:
    description:
      - Address of the APGMS database, as a libpq URL or keywords, without a password.
      - An address that carries a password is refused, since addresses are shown in results.
    type: str
    required: true
  database_password:
    description:
      - Password of the database user.
      - Not needed where the server trusts the connection or a passfile is in use.
    type: str
requirements:
  - psycopg >= 3.2
"""
