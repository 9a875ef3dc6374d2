package dev.rollcall.spark;

import java.util.Map;

/**
 * What the allocator does with ExecutorFleets. Every method is one request, or a few, and throws a {@link Problem}.
 */
interface Fleets {
  /** Creates the fleet, or changes it to this document. */
  void apply(Map<String, Object> document);

  /** Writes the number of executors that Spark wants. */
  void scale(String name, int executors);

  /** Reads the fleet's state; the problem is {@link Problem.Kind#GONE} if there is none. */
  State state(String name);

  /** Deletes the fleet. One that does not exist is no problem. */
  void delete(String name);

  enum State {
    /** Rollcall has not reported anything about it. */
    UNSEEN,
    SEEN
  }
}
