package dev.rollcall.spark;

import io.fabric8.kubernetes.api.model.Pod;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Locale;
import java.util.Map;

/** The ExecutorFleet of one resource profile. */
final class FleetDocument {
  /** Rollcall's limit: NAME-exec-ID is a host name, with an id of up to ten digits. */
  static final int NAME_MAX = 46;

  static final String MANAGED_BY = "rollcall.dev/managed-by";

  /** Ids of a profile's executors. They must differ from those of all other profiles of the application. */
  static final int IDS_PER_PROFILE = 1_000_000;

  private FleetDocument() {}

  /**
   * The fleet's name: the prefix of the executors' pods, or {@code PREFIX-rpN} for other profiles than the default. A
   * prefix that is too long for Rollcall is cut, and gets a part of its hash.
   */
  static String name(String prefix, int profile) {
    String suffix = profile == 0 ? "" : "-rp" + profile;
    String name = prefix.toLowerCase(Locale.ROOT).replaceAll("[^a-z0-9-]", "-");
    int max = NAME_MAX - suffix.length();
    if (name.length() > max) {
      String hash = hash(prefix);
      name = name.substring(0, max - hash.length() - 1).replaceAll("-+$", "") + "-" + hash;
    }
    return name + suffix;
  }

  private static String hash(String text) {
    try {
      byte[] digest = MessageDigest.getInstance("SHA-256").digest(text.getBytes(StandardCharsets.UTF_8));
      StringBuilder hex = new StringBuilder();
      for (int at = 0; at < 4; at++) {
        hex.append(String.format("%02x", digest[at] & 0xff));
      }
      return hex.toString();
    } catch (NoSuchAlgorithmException missing) {
      throw new IllegalStateException("every Java has SHA-256", missing);
    }
  }

  /** The first executor id of a profile. */
  static int firstExecutorId(int profile) {
    long first = 1 + (long) profile * IDS_PER_PROFILE;
    if (first + 2 * IDS_PER_PROFILE - 1 > Integer.MAX_VALUE) {
      throw new Problem(
          Problem.Kind.REFUSED,
          "Resource profile " + profile + " is beyond what Rollcall's pods allocator can number: executor ids are ints,"
              + " each profile has " + IDS_PER_PROFILE + " of them, and Rollcall leaves the last ones unused.",
          null);
    }
    return (int) first;
  }

  static Map<String, Object> of(
      Settings settings,
      String namespace,
      String prefix,
      String applicationId,
      String applicationName,
      Pod driver,
      int profile,
      ExecutorTemplate template,
      int executors) {
    Map<String, Object> labels = new LinkedHashMap<>();
    labels.put("spark-app-selector", applicationId);
    labels.put("spark-app-name", applicationName);
    labels.put(MANAGED_BY, "spark-allocator");

    Map<String, Object> owner = new LinkedHashMap<>();
    owner.put("apiVersion", "v1");
    owner.put("kind", "Pod");
    owner.put("name", driver.getMetadata().getName());
    owner.put("uid", driver.getMetadata().getUid());
    owner.put("controller", false);

    Map<String, Object> metadata = new LinkedHashMap<>();
    metadata.put("name", name(prefix, profile));
    metadata.put("namespace", namespace);
    metadata.put("labels", labels);
    metadata.put("ownerReferences", Collections.singletonList(owner));

    Map<String, Object> spec = new LinkedHashMap<>();
    spec.put("mode", "Own");
    spec.put("executors", executors);
    Map<String, Object> driverSpec = new LinkedHashMap<>();
    driverSpec.put("podName", driver.getMetadata().getName());
    driverSpec.put("restPort", settings.restPort());
    spec.put("driver", driverSpec);
    spec.put("applicationId", applicationId);
    spec.put("resourceProfile", profile);
    spec.put("firstExecutorId", firstExecutorId(profile));
    // Spark's number is no order to remove running executors, with or without dynamic allocation: Spark chooses them
    // and deletes their pods itself. Without dynamic allocation, a first SparkContext.killExecutors even sets it to 0.
    spec.put("scaleDown", "Driver");
    spec.put("heartbeat", settings.heartbeat());
    if (!settings.allocation().isEmpty()) {
      spec.put("allocation", settings.allocation());
    }
    if (!settings.recovery().isEmpty()) {
      spec.put("recovery", settings.recovery());
    }
    merge(spec, settings.fleet);
    spec.put("executorContainer", template.container);
    spec.put("executorPod", template.pod);

    Map<String, Object> document = new LinkedHashMap<>();
    document.put("apiVersion", ApiFleets.API_VERSION);
    document.put("kind", ApiFleets.KIND);
    document.put("metadata", metadata);
    document.put("spec", spec);
    return document;
  }

  /** Puts the fields of `from` over those of `into`, level by level. */
  private static void merge(Map<String, Object> into, Map<String, Object> from) {
    from.forEach(
        (key, value) -> {
          if (value instanceof Map && into.get(key) instanceof Map) {
            Map<String, Object> both = new LinkedHashMap<>(ExecutorTemplate.map(into.get(key)));
            merge(both, ExecutorTemplate.map(value));
            into.put(key, both);
          } else {
            into.put(key, value);
          }
        });
  }
}
