package dev.rollcall.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;

class KeeperTest {
  /** Records requests, and fails them as told. */
  private static final class Recorder implements Fleets {
    final List<String> requests = new ArrayList<>();
    final Map<String, State> fleets = new LinkedHashMap<>();
    Problem.Kind failing;

    private void request(String text) {
      requests.add(text);
      if (failing != null) {
        throw new Problem(failing, "as told", null);
      }
    }

    @Override
    public void apply(Map<String, Object> document) {
      request("apply " + document.get("name") + " " + document.get("executors"));
      fleets.put((String) document.get("name"), State.UNSEEN);
    }

    @Override
    public void scale(String name, int executors) {
      request("scale " + name + " " + executors);
      if (!fleets.containsKey(name)) {
        throw new Problem(Problem.Kind.GONE, "gone", null);
      }
    }

    @Override
    public State state(String name) {
      request("state " + name);
      State state = fleets.get(name);
      if (state == null) {
        throw new Problem(Problem.Kind.GONE, "gone", null);
      }
      return state;
    }

    @Override
    public void delete(String name) {
      request("delete " + name);
    }

    List<String> taken() {
      List<String> taken = new ArrayList<>(requests);
      requests.clear();
      return taken;
    }
  }

  private final Recorder api = new Recorder();
  private long nowMs;
  private Problem given;
  private final Keeper keeper = new Keeper(api, () -> nowMs, 60_000, problem -> given = problem);

  private void wish(int profile, int executors) {
    String name = profile == 0 ? "f" : "f-rp" + profile;
    keeper.wish(
        profile,
        name,
        number -> {
          Map<String, Object> document = new LinkedHashMap<>();
          document.put("name", name);
          document.put("executors", number);
          return document;
        },
        executors);
  }

  @Test
  void onlyTheLatestWishIsSent() {
    wish(0, 2);
    keeper.step();
    for (int executors = 3; executors < 100; executors++) {
      wish(0, executors);
    }
    keeper.step();
    assertEquals(Arrays.asList("apply f 2", "scale f 99"), api.taken());
    wish(0, 99);
    keeper.step();
    assertEquals(Collections.emptyList(), api.taken());
    // Back to what the API server has: nothing to say.
    wish(0, 5);
    wish(0, 99);
    keeper.step();
    assertEquals(Collections.emptyList(), api.taken());
  }

  @Test
  void aFleetForEachProfile() {
    wish(0, 2);
    wish(3, 4);
    keeper.step();
    assertEquals(Arrays.asList("apply f 2", "apply f-rp3 4"), api.taken());
    wish(3, 0);
    keeper.step();
    assertEquals(Collections.singletonList("scale f-rp3 0"), api.taken());
    assertEquals(Arrays.asList("f", "f-rp3"), keeper.written());
  }

  @Test
  void failuresAreRetriedLater() {
    wish(0, 2);
    keeper.step();
    api.taken();
    api.failing = Problem.Kind.PASSING;
    wish(0, 3);
    List<Long> waits = new ArrayList<>();
    for (int tries = 0; tries < 8; tries++) {
      long waitMs = keeper.step();
      waits.add(waitMs);
      // A wish does not hurry it.
      wish(0, 10 + tries);
      assertEquals(waitMs, keeper.step());
      nowMs += waitMs;
    }
    assertEquals(Arrays.asList(1_000L, 2_000L, 4_000L, 8_000L, 16_000L, 30_000L, 30_000L, 30_000L), waits);
    assertEquals(8, api.taken().size());
    api.failing = null;
    api.fleets.put("f", Fleets.State.SEEN);
    keeper.step();
    assertEquals(Arrays.asList("scale f 17", "state f"), api.taken());
    assertNull(given);
  }

  @Test
  void aForbiddenFleetIsGivenUpAfterThreeTries() {
    api.failing = Problem.Kind.FORBIDDEN;
    wish(0, 2);
    for (int tries = 0; tries < Keeper.REFUSALS; tries++) {
      assertNull(given);
      nowMs += keeper.step();
    }
    assertEquals(Problem.Kind.FORBIDDEN, given.kind);
    assertEquals(3, api.taken().size());
  }

  @Test
  void anUnknownResourceIsGivenUpAtOnce() {
    api.failing = Problem.Kind.ABSENT;
    wish(0, 2);
    keeper.step();
    assertEquals(Problem.Kind.ABSENT, given.kind);
  }

  /** Executors run: the right to change their number may come back. */
  @Test
  void aRefusalLaterIsNoReasonToGiveUp() {
    wish(0, 2);
    keeper.step();
    api.failing = Problem.Kind.FORBIDDEN;
    wish(0, 3);
    for (int tries = 0; tries < 10; tries++) {
      nowMs += keeper.step();
    }
    assertNull(given);
  }

  @Test
  void rollcallThatReportsNothing() {
    wish(0, 2);
    while (nowMs < 59_000) {
      nowMs += keeper.step();
      assertNull(given);
    }
    nowMs = 60_000;
    keeper.step();
    assertEquals(Problem.Kind.ABSENT, given.kind);
    assertTrue(given.getMessage().contains("within 60 s"), given.getMessage());
  }

  @Test
  void rollcallThatReports() {
    wish(0, 2);
    assertEquals(2_000, keeper.step());
    api.fleets.put("f", Fleets.State.SEEN);
    nowMs = 2_000;
    assertEquals(60_000, keeper.step());
    // A later state without status is another document's: it waits for Rollcall again, and gives up no more.
    api.fleets.put("f", Fleets.State.UNSEEN);
    nowMs = 10_000_000;
    keeper.step();
    assertNull(given);
  }

  @Test
  void aDeletedFleetIsWrittenAgain() {
    wish(0, 2);
    keeper.step();
    api.fleets.put("f", Fleets.State.SEEN);
    nowMs += 2_000;
    keeper.step();
    api.fleets.remove("f");
    nowMs += 60_000;
    nowMs += keeper.step();
    keeper.step();
    assertEquals(Arrays.asList("apply f 2", "state f", "state f", "apply f 2"), api.taken());
    // Also if the next wish is the first to notice.
    api.fleets.remove("f");
    wish(0, 7);
    nowMs += keeper.step();
    keeper.step();
    assertEquals(Arrays.asList("scale f 7", "apply f 7"), api.taken());
  }

  /** An operator removes and installs the custom resource, with all fleets. */
  @Test
  void theCustomResourceDisappears() {
    wish(0, 2);
    keeper.step();
    api.fleets.put("f", Fleets.State.SEEN);
    nowMs += keeper.step();
    nowMs += keeper.step();
    api.fleets.clear();
    api.failing = Problem.Kind.ABSENT;
    nowMs += 60_000;
    api.taken();
    for (int tries = 0; tries < 5; tries++) {
      nowMs += keeper.step();
    }
    assertNull(given);
    api.failing = null;
    nowMs += keeper.step();
    nowMs += keeper.step();
    assertEquals(Fleets.State.UNSEEN, api.fleets.get("f"));
  }

  @Test
  void theEndComesAtOnceAndLast() {
    wish(0, 2);
    keeper.step();
    api.failing = Problem.Kind.PASSING;
    wish(0, 3);
    keeper.step();
    api.failing = null;
    api.taken();
    keeper.end();
    wish(0, 5);
    wish(1, 5);
    keeper.step();
    assertEquals(Collections.singletonList("scale f 0"), api.taken());
  }
}
