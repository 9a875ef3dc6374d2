package dev.rollcall.spark;

/**
 * Why the API server did not do what it was asked to, and what an operator can do about it.
 */
final class Problem extends RuntimeException {
  private static final long serialVersionUID = 1L;

  enum Kind {
    /** The cluster does not know the resource, or nothing acts on it. */
    ABSENT,
    /** RBAC or an admission plugin refuses it. */
    FORBIDDEN,
    /** The API server, or the executor's description, is against it; trying again changes nothing. */
    REFUSED,
    /** The object does not exist. */
    GONE,
    /** An error that may pass: a timeout, a 5xx, a conflict. */
    PASSING
  }

  final Kind kind;

  Problem(Kind kind, String message, Throwable cause) {
    super(message, cause);
    this.kind = kind;
  }

  /** Whether waiting and trying again can help. */
  boolean passes() {
    return kind == Kind.PASSING;
  }
}
