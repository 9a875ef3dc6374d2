package dev.rollcall.spark;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.Consumer;
import java.util.function.IntFunction;
import java.util.function.LongSupplier;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Keeps the ExecutorFleets of an application at what Spark wants.
 *
 * <p>Spark's thread writes a number down and goes on; one thread of its own carries the latest number to the API
 * server. A number that is overtaken is never sent, because there is only one place for it. What fails is tried again
 * after 1, 2, 4 ... 30 s; the first failure is logged as an error with its remedy, the next ones only for debugging.
 *
 * <p>{@link #step} is the whole logic and has no thread and no clock, for tests.
 */
final class Keeper {
  private static final Logger LOG = LoggerFactory.getLogger(RollcallPodsAllocator.class);

  static final long FIRST_BACKOFF_MS = 1_000;
  static final long LAST_BACKOFF_MS = 30_000;
  /** How often it looks whether Rollcall has seen a new fleet. */
  static final long UNSEEN_INTERVAL_MS = 2_000;
  /** How often it looks whether a fleet still exists. */
  static final long SEEN_INTERVAL_MS = 60_000;
  /**
   * A new RBAC rule takes a moment until it applies, and an API server that has just started refuses everything: a
   * refusal must come three times, within 3 s, before it counts.
   */
  static final int REFUSALS = 3;

  /** One resource profile's fleet. */
  private static final class Fleet {
    final String name;
    /** The document for a number of executors. */
    final IntFunction<Map<String, Object>> document;
    int wish;
    /** The number that the API server has; -1 if it does not have the fleet. */
    int written = -1;
    volatile boolean everWritten;
    long writtenAtMs;
    boolean seen;
    long lookAtMs;
    int refusals;

    Fleet(String name, IntFunction<Map<String, Object>> document, int wish) {
      this.name = name;
      this.document = document;
      this.wish = wish;
    }
  }

  private final Fleets api;
  private final LongSupplier clockMs;
  private final long startTimeoutMs;
  /** Called once, from this class's thread, when Rollcall cannot take the fleets over. */
  private final Consumer<Problem> unavailable;

  // Guarded by `this`, but for the fields of a Fleet other than its wish: only `step` touches them.
  private final Map<Integer, Fleet> fleets = new TreeMap<>();
  private boolean kicked;
  private boolean ended;
  private Thread thread;

  private long backoffMs;
  private long retryAtMs;
  private int failures;
  private volatile boolean over;

  Keeper(Fleets api, LongSupplier clockMs, long startTimeoutMs, Consumer<Problem> unavailable) {
    this.api = api;
    this.clockMs = clockMs;
    this.startTimeoutMs = startTimeoutMs;
    this.unavailable = unavailable;
  }

  /** Spark wants this many executors of a profile. `document` is kept from the first call for the profile. */
  synchronized void wish(int profile, String name, IntFunction<Map<String, Object>> document, int executors) {
    Fleet fleet = fleets.get(profile);
    if (ended) {
      return;
    }
    if (fleet == null) {
      fleets.put(profile, new Fleet(name, document, executors));
    } else if (fleet.wish == executors) {
      return;
    } else {
      fleet.wish = executors;
    }
    kick();
  }

  synchronized boolean knows(int profile) {
    return fleets.containsKey(profile);
  }

  /** The application ends: no fleet shall replace an executor that Spark stops. */
  synchronized void end() {
    for (Fleet fleet : fleets.values()) {
      fleet.wish = 0;
    }
    ended = true;
    // Not after a back-off: in a moment the executors stop.
    retryAtMs = 0;
    kick();
  }

  private synchronized void kick() {
    kicked = true;
    notifyAll();
  }

  synchronized void start() {
    thread = new Thread(this::run, "rollcall-pods-allocator");
    thread.setDaemon(true);
    thread.start();
  }

  /** Ends the thread; waits at most this long for a request that is under way. */
  void stop(long waitMs) {
    over = true;
    Thread running;
    synchronized (this) {
      running = thread;
      kick();
    }
    if (running != null && running != Thread.currentThread()) {
      try {
        running.join(waitMs);
      } catch (InterruptedException interrupted) {
        Thread.currentThread().interrupt();
      }
    }
  }

  private void run() {
    while (!over) {
      long waitMs;
      try {
        waitMs = step();
      } catch (RuntimeException bug) {
        LOG.error("Rollcall's pods allocator: unexpected error; it tries again in 30 s", bug);
        waitMs = LAST_BACKOFF_MS;
      }
      synchronized (this) {
        try {
          if (!kicked && !over) {
            wait(Math.max(1, waitMs));
          }
        } catch (InterruptedException interrupted) {
          return;
        }
        kicked = false;
      }
    }
  }

  /** Does what is due. Returns after how many milliseconds it wants to be called again, if nothing happens before. */
  long step() {
    long nowMs = clockMs.getAsLong();
    List<Fleet> all;
    Map<Fleet, Integer> wishes = new LinkedHashMap<>();
    synchronized (this) {
      if (nowMs < retryAtMs) {
        return retryAtMs - nowMs;
      }
      all = new ArrayList<>(fleets.values());
      for (Fleet fleet : all) {
        wishes.put(fleet, fleet.wish);
      }
    }
    long nextMs = SEEN_INTERVAL_MS;
    for (Fleet fleet : all) {
      if (over) {
        return SEEN_INTERVAL_MS;
      }
      try {
        write(fleet, wishes.get(fleet), nowMs);
        if (fleet.written >= 0 && nowMs >= fleet.lookAtMs) {
          look(fleet, nowMs);
        }
        fleet.refusals = 0;
      } catch (Problem problem) {
        // Once Rollcall runs executors, waiting is better than ending the application.
        boolean refused = !fleet.everWritten && !problem.passes() && ++fleet.refusals >= REFUSALS;
        boolean absent = !fleet.seen && problem.kind == Problem.Kind.ABSENT;
        if (refused || absent) {
          give(problem);
          return SEEN_INTERVAL_MS;
        }
        return failed(fleet, problem, nowMs);
      }
      nextMs = Math.min(nextMs, Math.max(1, fleet.lookAtMs - nowMs));
    }
    if (failures > 0) {
      LOG.info("The API server accepts the ExecutorFleets again, after {} failures", failures);
      failures = 0;
    }
    backoffMs = 0;
    return all.isEmpty() ? SEEN_INTERVAL_MS : nextMs;
  }

  private void write(Fleet fleet, int wish, long nowMs) {
    if (fleet.written < 0) {
      api.apply(fleet.document.apply(wish));
      LOG.info("Rollcall keeps the executors of fleet {}: {} wanted", fleet.name, wish);
      fleet.written = wish;
      fleet.writtenAtMs = nowMs;
      fleet.lookAtMs = nowMs + UNSEEN_INTERVAL_MS;
      fleet.everWritten = true;
    } else if (fleet.written != wish) {
      try {
        api.scale(fleet.name, wish);
      } catch (Problem problem) {
        if (problem.kind == Problem.Kind.GONE) {
          vanished(fleet, nowMs);
        }
        throw problem;
      }
      LOG.info("Fleet {}: {} executors wanted, {} before", fleet.name, wish, fleet.written);
      fleet.written = wish;
    }
  }

  private void look(Fleet fleet, long nowMs) {
    Fleets.State state;
    try {
      state = api.state(fleet.name);
    } catch (Problem problem) {
      if (problem.kind == Problem.Kind.GONE) {
        vanished(fleet, nowMs);
      }
      throw problem;
    }
    if (state == Fleets.State.SEEN) {
      fleet.seen = true;
    } else if (!fleet.seen && nowMs - fleet.writtenAtMs >= startTimeoutMs) {
      String message =
          "Rollcall has reported nothing about the ExecutorFleet " + fleet.name + " within " + startTimeoutMs / 1_000
              + " s: its status has no observedGeneration. Is the daemon running, does it serve this namespace and"
              + " custom resources, and may it write their status? `kubectl get executorfleet " + fleet.name
              + " -o yaml` shows the document. spark.rollcall.startTimeout is how long the driver waits.";
      throw new Problem(Problem.Kind.ABSENT, message, null);
    }
    fleet.lookAtMs = nowMs + (fleet.seen ? SEEN_INTERVAL_MS : UNSEEN_INTERVAL_MS);
  }

  /** Deleted by another: it is written again with the next attempt. */
  private void vanished(Fleet fleet, long nowMs) {
    fleet.written = -1;
    fleet.writtenAtMs = nowMs;
  }

  private long failed(Fleet fleet, Problem problem, long nowMs) {
    backoffMs = backoffMs == 0 ? FIRST_BACKOFF_MS : Math.min(2 * backoffMs, LAST_BACKOFF_MS);
    String retry = "The allocator tries again until it succeeds; running executors are not affected.";
    if (failures == 0) {
      LOG.error("Cannot keep fleet {}. {} {}", fleet.name, problem.getMessage(), retry);
    } else {
      LOG.debug("Fleet {}, failure {}: {}", fleet.name, failures + 1, problem.getMessage());
    }
    failures += 1;
    synchronized (this) {
      retryAtMs = nowMs + backoffMs;
    }
    return backoffMs;
  }

  private void give(Problem problem) {
    over = true;
    unavailable.accept(problem);
  }

  /** The names of the fleets that were written. */
  synchronized List<String> written() {
    List<String> names = new ArrayList<>();
    for (Fleet fleet : fleets.values()) {
      if (fleet.everWritten) {
        names.add(fleet.name);
      }
    }
    return names;
  }

  /** Whether the API server has the fleet of the profile. */
  synchronized boolean hasWritten(int profile) {
    Fleet fleet = fleets.get(profile);
    return fleet != null && fleet.everWritten;
  }
}
