package dev.rollcall.spark;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import io.fabric8.kubernetes.api.model.APIResource;
import io.fabric8.kubernetes.api.model.APIResourceList;
import io.fabric8.kubernetes.client.utils.Serialization;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;

/**
 * A few answers of a Kubernetes API server: the driver's pod, and ExecutorFleets. Everything else is accepted. What the
 * allocator does with a real one is in README.md.
 */
final class ApiServer implements AutoCloseable {
  static final String FLEETS = "/apis/rollcall.dev/v1alpha1/namespaces/spark/executorfleets";

  final Map<String, Map<String, Object>> fleets = new ConcurrentHashMap<>();
  final List<String> requests = Collections.synchronizedList(new ArrayList<>());
  final List<Map<String, Object>> pods = Collections.synchronizedList(new ArrayList<>());
  /** Answered instead of anything about fleets, if it is not 0. */
  volatile int fleetsAnswer;
  volatile boolean withoutScale;
  /** The custom resource is installed. */
  volatile boolean served = true;
  /** Rollcall's part: it has seen every fleet. */
  volatile boolean observing = true;

  private final HttpServer server;

  ApiServer() throws IOException {
    server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
    server.setExecutor(Executors.newCachedThreadPool());
    server.createContext("/", this::answer);
    server.start();
  }

  int port() {
    return server.getAddress().getPort();
  }

  private void answer(HttpExchange exchange) throws IOException {
    String method = exchange.getRequestMethod();
    String path = exchange.getRequestURI().getPath();
    String body = read(exchange.getRequestBody());
    String type = exchange.getRequestHeaders().getFirst("Content-Type");
    requests.add(method + " " + path + ("PATCH".equals(method) ? " " + type : ""));
    try {
      if (path.startsWith(FLEETS)) {
        fleet(exchange, method, path.substring(FLEETS.length()), body, type);
      } else if (path.equals("/apis/rollcall.dev/v1alpha1") && served) {
        send(exchange, 200, resources());
      } else if (path.endsWith("/pods/numbers-driver")) {
        send(exchange, 200, Spark.driver());
      } else if (path.endsWith("/pods") && method.equals("POST")) {
        Map<String, Object> pod = ExecutorTemplate.map(Serialization.unmarshal(body, LinkedHashMap.class));
        pods.add(pod);
        send(exchange, 201, pod);
      } else if (path.endsWith("/configmaps") && method.equals("POST")) {
        send(exchange, 201, Serialization.unmarshal(body, LinkedHashMap.class));
      } else {
        send(exchange, 404, status(404, "not served here: " + method + " " + path));
      }
    } catch (RuntimeException error) {
      send(exchange, 500, status(500, error.toString()));
    }
  }

  private void fleet(HttpExchange exchange, String method, String rest, String body, String type)
      throws IOException {
    if (fleetsAnswer != 0) {
      send(exchange, fleetsAnswer, status(fleetsAnswer, "as told"));
      return;
    }
    String[] names = rest.split("/");
    String name = names[1];
    Map<String, Object> fleet = fleets.get(name);
    if (names.length > 2) {
      if (withoutScale || fleet == null) {
        send(exchange, 404, status(404, "no scale"));
        return;
      }
      Map<String, Object> scale = ExecutorTemplate.map(Serialization.unmarshal(body, LinkedHashMap.class));
      ExecutorTemplate.map(fleet.get("spec"))
          .put("executors", ExecutorTemplate.map(scale.get("spec")).get("replicas"));
      send(exchange, 200, scale);
    } else if (method.equals("PATCH") && type.startsWith("application/apply-patch")) {
      Map<String, Object> sent = ExecutorTemplate.map(Serialization.unmarshal(body, LinkedHashMap.class));
      // That of an earlier document, if Rollcall does not observe this one.
      ExecutorTemplate.map(sent.get("metadata")).put("generation", 5);
      sent.put("status", new LinkedHashMap<>(Collections.singletonMap("observedGeneration", observing ? 5 : 4)));
      fleets.put(name, sent);
      send(exchange, fleet == null ? 201 : 200, sent);
    } else if (fleet == null) {
      send(exchange, 404, status(404, "no such fleet"));
    } else if (method.equals("PATCH")) {
      Map<String, Object> patch = ExecutorTemplate.map(Serialization.unmarshal(body, LinkedHashMap.class));
      ExecutorTemplate.map(fleet.get("spec")).putAll(ExecutorTemplate.map(patch.get("spec")));
      send(exchange, 200, fleet);
    } else if (method.equals("DELETE")) {
      fleets.remove(name);
      send(exchange, 200, fleet);
    } else {
      send(exchange, 200, fleet);
    }
  }

  private static Object resources() {
    APIResource fleets = new APIResource();
    fleets.setName("executorfleets");
    fleets.setKind("ExecutorFleet");
    fleets.setNamespaced(true);
    APIResourceList list = new APIResourceList();
    list.setGroupVersion("rollcall.dev/v1alpha1");
    list.setResources(Collections.singletonList(fleets));
    return list;
  }

  Object executors(String name) {
    Map<String, Object> fleet = fleets.get(name);
    return fleet == null ? null : ExecutorTemplate.map(fleet.get("spec")).get("executors");
  }

  private static Map<String, Object> status(int code, String message) {
    Map<String, Object> status = new LinkedHashMap<>();
    status.put("apiVersion", "v1");
    status.put("kind", "Status");
    status.put("status", "Failure");
    status.put("code", code);
    status.put("message", message);
    return status;
  }

  private static String read(InputStream stream) throws IOException {
    ByteArrayOutputStream all = new ByteArrayOutputStream();
    byte[] buffer = new byte[8192];
    for (int count = stream.read(buffer); count >= 0; count = stream.read(buffer)) {
      all.write(buffer, 0, count);
    }
    return new String(all.toByteArray(), StandardCharsets.UTF_8);
  }

  private static void send(HttpExchange exchange, int code, Object body) throws IOException {
    byte[] bytes = Serialization.asJson(body).getBytes(StandardCharsets.UTF_8);
    exchange.getResponseHeaders().add("Content-Type", "application/json");
    exchange.sendResponseHeaders(code, bytes.length);
    exchange.getResponseBody().write(bytes);
    exchange.close();
  }

  @Override
  public void close() {
    server.stop(0);
  }
}
