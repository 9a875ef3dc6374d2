package dev.rollcall.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.fabric8.kubernetes.client.KubernetesClient;
import io.fabric8.kubernetes.client.utils.Serialization;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.spark.SparkConf;
import org.apache.spark.resource.ResourceProfile$;
import org.junit.jupiter.api.Test;

class DocumentTest {
  private static Map<String, Object> spec(String... settings) {
    SparkConf conf = Spark.conf(settings);
    ResourceProfile$.MODULE$.clearDefaultProfile();
    try (KubernetesClient client = Spark.client(1)) {
      ExecutorTemplate template =
          Spark.template(conf, client, ResourceProfile$.MODULE$.getOrCreateDefaultProfile(conf));
      Settings all = new Settings(conf);
      Map<String, Object> document =
          FleetDocument.of(
              all, "spark", Spark.PREFIX, Spark.APPLICATION, "numbers-2", Spark.driver(), 0, template, 3);
      Map<String, Object> spec = ExecutorTemplate.map(document.get("spec"));
      assertEquals(template.pod, spec.remove("executorPod"));
      return spec;
    }
  }

  private static String json(Object value) {
    return Serialization.asJson(value);
  }

  @Test
  void whatIsWrittenByDefault() {
    assertEquals(
        "{\"mode\":\"Own\",\"executors\":3,\"driver\":{\"podName\":\"numbers-driver\",\"restPort\":4040},"
            + "\"applicationId\":\"spark-0123456789abcdef\",\"resourceProfile\":0,\"firstExecutorId\":1,"
            + "\"scaleDown\":\"Driver\",\"heartbeat\":{\"timeout\":\"120s\",\"disabled\":true},"
            + "\"executorContainer\":\"spark-kubernetes-executor\"}",
        json(spec()));
  }

  @Test
  void whatSparkIsTold() {
    Map<String, Object> spec =
        spec(
            "spark.ui.port", "4050",
            "spark.kubernetes.allocation.batch.size", "7",
            "spark.kubernetes.allocation.batch.delay", "2s",
            "spark.kubernetes.allocation.executor.timeout", "5min",
            "spark.kubernetes.allocation.maxPendingPods", "40",
            "spark.executor.maxNumFailures", "9",
            "spark.executor.failuresValidityInterval", "1h");
    assertEquals("{\"podName\":\"numbers-driver\",\"restPort\":4050}", json(spec.get("driver")));
    assertEquals(
        "{\"batchSize\":7,\"batchDelay\":\"2000ms\",\"pendingTimeout\":\"300000ms\",\"maxPendingPods\":40}",
        json(spec.get("allocation")));
    assertEquals(
        "{\"maxExecutorFailures\":9,\"failuresValidityInterval\":\"3600000ms\"}", json(spec.get("recovery")));
  }

  @Test
  void heartbeats() {
    String sink = "spark.metrics.conf.executor.sink.graphite.";
    Map<String, Object> spec =
        spec(
            "spark.network.timeout", "3min",
            "spark.metrics.namespace", "${spark.app.name}-x",
            "spark.metrics.conf.*.sink.graphite.class", "org.apache.spark.metrics.sink.GraphiteSink",
            "spark.metrics.conf.*.sink.graphite.period", "10",
            "spark.metrics.conf.*.sink.console.class", "org.apache.spark.metrics.sink.ConsoleSink",
            sink + "host", "rollcall.rollcall.svc",
            sink + "port", "9109",
            sink + "period", "1",
            sink + "unit", "minutes",
            sink + "prefix", "prod");
    assertEquals(
        "{\"timeout\":\"180s\",\"interval\":\"60000ms\",\"graphitePrefix\":\"prod\","
            + "\"metricsNamespace\":\"Numbers 2-x\"}",
        json(spec.get("heartbeat")));
  }

  @Test
  void sinksThatAreNoHeartbeats() {
    String sink = "spark.metrics.conf.%s.sink.graphite.class";
    String graphite = "org.apache.spark.metrics.sink.GraphiteSink";
    String silent = "{\"timeout\":\"120s\",\"disabled\":true}";
    // Only the driver's.
    assertEquals(silent, json(spec(String.format(sink, "driver"), graphite).get("heartbeat")));
    assertEquals(
        silent,
        json(
            spec(String.format(sink, "*"), graphite, "spark.metrics.conf.*.sink.graphite.protocol", "udp")
                .get("heartbeat")));
  }

  @Test
  void settingsForTheFleet() {
    Map<String, Object> spec =
        spec(
            "spark.rollcall.fleet.limits.maxSurge", "2",
            "spark.rollcall.fleet.limits.minAvailable", "80%",
            "spark.rollcall.fleet.roll.policies", "OUTLIER, ID",
            "spark.rollcall.fleet.roll.windows", "[{\"start\":\"22:00\",\"duration\":\"4h\"}]",
            "spark.rollcall.fleet.policies.OUTLIER", "{\"factor\": 2.5}",
            "spark.rollcall.fleet.heartbeat.checkPeer", "false",
            "spark.rollcall.fleet.driver.restPort", "4041",
            "spark.rollcall.fleet.scaleDown", "Rollcall",
            "spark.rollcall.fleet.dryRun", "true");
    assertEquals("{\"maxSurge\":2,\"minAvailable\":\"80%\"}", json(spec.get("limits")));
    assertEquals(
        "{\"policies\":[\"OUTLIER\",\"ID\"],\"windows\":[{\"start\":\"22:00\",\"duration\":\"4h\"}]}",
        json(spec.get("roll")));
    assertEquals("{\"OUTLIER\":{\"factor\":2.5}}", json(spec.get("policies")));
    assertEquals("{\"timeout\":\"120s\",\"disabled\":true,\"checkPeer\":false}", json(spec.get("heartbeat")));
    assertEquals("{\"podName\":\"numbers-driver\",\"restPort\":4041}", json(spec.get("driver")));
    assertEquals("Rollcall", spec.get("scaleDown"));
    assertEquals(true, spec.get("dryRun"));
  }

  @Test
  void settingsThatDoNotExist() {
    for (String key :
        Arrays.asList(
            "spark.rollcall.starttimeout",
            "spark.rollcall.fleet.executors",
            "spark.rollcall.fleet.executorPod.spec.nodeName",
            "spark.rollcall.fleet.driver.podName",
            "spark.rollcall.fleet.limits..maxSurge",
            "spark.rollcall.fleet.")) {
      SparkConf conf = Spark.conf(key, "1");
      Exception error = assertThrows(IllegalArgumentException.class, () -> new Settings(conf), key);
      assertTrue(error.getMessage().startsWith(key + " "), error.getMessage());
    }
    SparkConf both =
        Spark.conf("spark.rollcall.fleet.roll", "{}", "spark.rollcall.fleet.roll.interval", "1h");
    assertEquals("{\"roll\":{\"interval\":\"1h\"}}", json(new Settings(both).fleet));
    SparkConf contradiction =
        Spark.conf("spark.rollcall.fleet.limits", "3", "spark.rollcall.fleet.limits.maxSurge", "1");
    assertThrows(IllegalArgumentException.class, () -> new Settings(contradiction));
  }

  @Test
  void names() {
    assertEquals("numbers-1", FleetDocument.name("numbers-1", 0));
    assertEquals("numbers-1-rp3", FleetDocument.name("numbers-1", 3));
    String prefix = new String(new char[60]).replace('\0', 'a');
    assertEquals(46, FleetDocument.name(prefix, 0).length());
    assertEquals(46, FleetDocument.name(prefix, 12).length());
    assertTrue(FleetDocument.name(prefix, 12).endsWith("-rp12"));
    assertEquals("a-b", FleetDocument.name("a.b", 0));
    // Two that are equal in the first characters stay two.
    Map<String, String> names = new LinkedHashMap<>();
    for (String end : Arrays.asList("-1", "-2")) {
      names.put(FleetDocument.name(prefix + end, 0), end);
    }
    assertEquals(2, names.size());
  }

  @Test
  void ids() {
    assertEquals(1, FleetDocument.firstExecutorId(0));
    assertEquals(3_000_001, FleetDocument.firstExecutorId(3));
    assertEquals(2_145_000_001, FleetDocument.firstExecutorId(2_145));
    assertThrows(Problem.class, () -> FleetDocument.firstExecutorId(2_146));
  }
}
