# GNU General Public License v3.0+ (see COPYING)
"""The AWS session of a stack."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ApgmsError
from ..libraries import boto3, botocore


@dataclass(frozen=True)
class CallerIdentity:
    """Who AWS says is calling."""

    account: str
    arn: str


def caller_identity(profile: str, endpoint: str | None = None) -> CallerIdentity:
    """Ask STS who the profile's session belongs to.

    :raises ApgmsError: ``aws.no_session``
    """
    try:
        session = boto3.Session(profile_name=profile)
        answer = session.client("sts", endpoint_url=endpoint).get_caller_identity()
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise ApgmsError(
            "aws.no_session",
            "There is no AWS session",
            where=f"AWS profile {profile}",
            why=" ".join(str(error).split()),
            mend=f"aws sso login --profile {profile}",
        ) from error
    return CallerIdentity(answer["Account"], answer["Arn"])


def require_account(identity: CallerIdentity, account: str, profile: str) -> None:
    """Refuse a session of another account.

    :raises ApgmsError: ``aws.wrong_account``
    """
    if identity.account != account:
        raise ApgmsError(
            "aws.wrong_account",
            "The AWS session belongs to another account",
            where=f"AWS profile {profile}, {identity.arn}",
            why=f"account {account} is expected, the session is of {identity.account}",
            mend=f"correct the profile's account, then: aws sso login --profile {profile}",
        )
