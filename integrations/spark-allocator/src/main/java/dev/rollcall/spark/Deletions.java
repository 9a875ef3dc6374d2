package dev.rollcall.spark;

import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import org.apache.spark.scheduler.cluster.k8s.ExecutorPodState;
import org.apache.spark.scheduler.cluster.k8s.ExecutorPodsSnapshot;
import scala.collection.Iterator;

/**
 * Executors whose pods are being deleted. Spark refuses their registration: work that they got would be lost at once.
 *
 * <p>Only a deletionTimestamp counts, because it is never taken back. Rejected: that a pod is missing from a list. A
 * list may be older than a pod, and Spark would refuse an executor that is alive.
 */
final class Deletions {
  /** An executor id is used once, so forgetting the oldest is harmless: its pod ended long ago. */
  static final int MAX = 10_000;

  private final Set<String> ids = new LinkedHashSet<>();

  void observe(List<ExecutorPodsSnapshot> snapshots) {
    for (ExecutorPodsSnapshot snapshot : snapshots) {
      Iterator<ExecutorPodState> states = snapshot.executorPods().valuesIterator();
      while (states.hasNext()) {
        observe(states.next());
      }
    }
  }

  private void observe(ExecutorPodState state) {
    if (state.pod().getMetadata().getDeletionTimestamp() == null) {
      return;
    }
    String id = state.pod().getMetadata().getLabels().get("spark-exec-id");
    if (id != null) {
      add(id);
    }
  }

  synchronized void add(String id) {
    if (ids.add(id) && ids.size() > MAX) {
      ids.remove(ids.iterator().next());
    }
  }

  synchronized boolean contains(String id) {
    return ids.contains(id);
  }
}
