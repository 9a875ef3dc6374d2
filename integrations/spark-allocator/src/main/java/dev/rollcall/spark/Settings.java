package dev.rollcall.spark;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.TimeUnit;
import org.apache.spark.SparkConf;
import scala.Tuple2;

/** The settings {@code spark.rollcall.*}, and what of Spark's own settings belongs into the ExecutorFleet. */
final class Settings {
  static final String PREFIX = "spark.rollcall.";
  static final String START_TIMEOUT = PREFIX + "startTimeout";
  static final String FALLBACK = PREFIX + "fallback";
  static final String FLEET = PREFIX + "fleet.";

  /** The fields of spec that a setting may write. The others describe the executor, and Spark does that. */
  static final List<String> FIELDS =
      Collections.unmodifiableList(
          Arrays.asList(
              "allocation", "driver", "dryRun", "heartbeat", "limits", "nodes", "paused", "policies", "recovery",
              "roll", "scaleDown"));

  /** Not even below an allowed field: the driver's pod is the one that this class runs in. */
  private static final Set<String> FORBIDDEN = Collections.singleton("driver.podName");

  /** Lists of texts, for which `A,B` is as good as `["A","B"]`. */
  private static final Set<String> LISTS =
      Collections.unmodifiableSet(
          new HashSet<>(
              Arrays.asList("roll.policies", "recovery.policies", "heartbeat.columns", "nodes.spotLabels")));

  private static final String GRAPHITE = "org.apache.spark.metrics.sink.GraphiteSink";
  private static final ObjectMapper JSON = new ObjectMapper();

  final long startTimeoutMs;
  final boolean fallback;
  /** What {@code spark.rollcall.fleet.*} writes into spec. */
  final Map<String, Object> fleet;
  final List<String> remarks = new ArrayList<>();

  private final SparkConf conf;

  Settings(SparkConf conf) {
    this.conf = conf;
    this.startTimeoutMs = conf.getTimeAsMs(START_TIMEOUT, "60s");
    this.fallback = conf.getBoolean(FALLBACK, false);
    this.fleet = new LinkedHashMap<>();
    Map<String, String> sorted = new TreeMap<>();
    for (Tuple2<String, String> entry : conf.getAll()) {
      sorted.put(entry._1(), entry._2());
    }
    for (Map.Entry<String, String> entry : sorted.entrySet()) {
      String key = entry.getKey();
      if (key.startsWith(FLEET)) {
        put(key, key.substring(FLEET.length()), entry.getValue());
      } else if (key.startsWith(PREFIX) && !key.equals(START_TIMEOUT) && !key.equals(FALLBACK)) {
        throw new IllegalArgumentException(
            key + " is no setting of Rollcall's pods allocator. There are " + START_TIMEOUT + ", " + FALLBACK
                + " and " + FLEET + "<field of ExecutorFleet.spec>.");
      }
    }
  }

  private void put(String key, String path, String value) {
    String[] names = path.split("\\.", -1);
    if (!FIELDS.contains(names[0]) || FORBIDDEN.contains(path) || Arrays.asList(names).contains("")) {
      throw new IllegalArgumentException(
          key + " cannot be set: below " + FLEET + " there are the fields " + String.join(", ", FIELDS)
              + " of ExecutorFleet.spec. What describes the executor comes from Spark's own settings.");
    }
    Map<String, Object> at = fleet;
    for (int index = 0; index < names.length - 1; index++) {
      Object next = at.computeIfAbsent(names[index], name -> new LinkedHashMap<String, Object>());
      if (!(next instanceof Map)) {
        throw new IllegalArgumentException(
            key + " contradicts another setting, which gives a part of its path a value.");
      }
      at = ExecutorTemplate.map(next);
    }
    Object parsed = value(key, path, value.trim());
    if (at.put(names[names.length - 1], parsed) != null) {
      throw new IllegalArgumentException(key + " contradicts another setting, which sets a part of it.");
    }
  }

  /** true, false, whole numbers and JSON are what they look like; everything else is text. */
  private static Object value(String key, String path, String value) {
    if (LISTS.contains(path) && !value.startsWith("[")) {
      List<String> items = new ArrayList<>();
      for (String item : value.split(",")) {
        if (!item.trim().isEmpty()) {
          items.add(item.trim());
        }
      }
      return items;
    }
    if (value.startsWith("[") || value.startsWith("{") || value.startsWith("\"")) {
      try {
        return JSON.readValue(value, Object.class);
      } catch (JsonProcessingException error) {
        throw new IllegalArgumentException(key + " is no valid JSON: " + error.getOriginalMessage(), error);
      }
    }
    if (value.equals("true") || value.equals("false")) {
      return Boolean.valueOf(value);
    }
    return value.matches("-?[0-9]{1,18}") ? (Object) Long.valueOf(value) : value;
  }

  /**
   * How executors report that they are alive. Only {@code spark.metrics.conf.*} counts: it reaches every executor. A
   * metrics.properties file may not, and Rollcall would take the silence of all executors for their end.
   */
  Map<String, Object> heartbeat() {
    Map<String, Object> heartbeat = new LinkedHashMap<>();
    heartbeat.put("timeout", conf.getTimeAsSeconds("spark.network.timeout", "120s") + "s");
    Map<String, Map<String, String>> sinks = new TreeMap<>();
    // The instance's own options override those of `*`.
    for (String instance : new String[] {"*", "executor"}) {
      String prefix = "spark.metrics.conf." + instance + ".sink.";
      for (Tuple2<String, String> entry : conf.getAllWithPrefix(prefix)) {
        int dot = entry._1().indexOf('.');
        if (dot > 0) {
          sinks
              .computeIfAbsent(entry._1().substring(0, dot), name -> new TreeMap<>())
              .put(entry._1().substring(dot + 1), entry._2());
        }
      }
    }
    for (Map<String, String> sink : sinks.values()) {
      if (!GRAPHITE.equals(sink.get("class"))) {
        continue;
      }
      if ("udp".equalsIgnoreCase(sink.get("protocol"))) {
        remarks.add("GraphiteSink uses UDP, which Rollcall does not listen to: no heartbeats are expected");
        continue;
      }
      heartbeat.put("interval", interval(sink));
      String prefix = sink.getOrDefault("prefix", "");
      if (!prefix.isEmpty()) {
        heartbeat.put("graphitePrefix", prefix);
      }
      String namespace = Scala.orNull(conf.getOption("spark.metrics.namespace"));
      if (namespace != null && !namespace.isEmpty()) {
        heartbeat.put("metricsNamespace", expanded(namespace));
      }
      return heartbeat;
    }
    heartbeat.put("disabled", true);
    return heartbeat;
  }

  private static String interval(Map<String, String> sink) {
    String period = sink.getOrDefault("period", "10").trim();
    String unit = sink.getOrDefault("unit", "seconds").trim();
    return TimeUnit.valueOf(unit.toUpperCase(Locale.ROOT)).toMillis(Long.parseLong(period)) + "ms";
  }

  /** {@code ${spark.app.name}} and the like, as Spark substitutes them in this setting. */
  private String expanded(String text) {
    StringBuilder result = new StringBuilder();
    int at = 0;
    while (true) {
      int open = text.indexOf("${", at);
      int close = open < 0 ? -1 : text.indexOf('}', open);
      if (close < 0) {
        return result.append(text.substring(at)).toString();
      }
      String name = text.substring(open + 2, close);
      String value = Scala.orNull(conf.getOption(name));
      result.append(text, at, open).append(value == null ? text.substring(open, close + 1) : value);
      at = close + 1;
    }
  }

  /** Spark's limits, where they are set. Where they are not, Rollcall's defaults apply, which are Spark's. */
  Map<String, Object> allocation() {
    Map<String, Object> allocation = new LinkedHashMap<>();
    whole("spark.kubernetes.allocation.batch.size", "batchSize", allocation);
    time("spark.kubernetes.allocation.batch.delay", "batchDelay", allocation);
    time("spark.kubernetes.allocation.executor.timeout", "pendingTimeout", allocation);
    whole("spark.kubernetes.allocation.maxPendingPods", "maxPendingPods", allocation);
    return allocation;
  }

  Map<String, Object> recovery() {
    Map<String, Object> recovery = new LinkedHashMap<>();
    whole("spark.executor.maxNumFailures", "maxExecutorFailures", recovery);
    time("spark.executor.failuresValidityInterval", "failuresValidityInterval", recovery);
    return recovery;
  }

  private void whole(String key, String field, Map<String, Object> into) {
    if (conf.contains(key)) {
      into.put(field, conf.getInt(key, 0));
    }
  }

  private void time(String key, String field, Map<String, Object> into) {
    if (conf.contains(key)) {
      into.put(field, conf.getTimeAsMs(key, "0") + "ms");
    }
  }

  int restPort() {
    return conf.getInt("spark.ui.port", 4040);
  }
}
