package dev.rollcall.spark;

import io.fabric8.kubernetes.api.model.APIResourceList;
import io.fabric8.kubernetes.api.model.GenericKubernetesResource;
import io.fabric8.kubernetes.api.model.GenericKubernetesResourceList;
import io.fabric8.kubernetes.api.model.Status;
import io.fabric8.kubernetes.client.KubernetesClient;
import io.fabric8.kubernetes.client.KubernetesClientException;
import io.fabric8.kubernetes.client.dsl.NonNamespaceOperation;
import io.fabric8.kubernetes.client.dsl.Resource;
import io.fabric8.kubernetes.client.dsl.base.PatchContext;
import io.fabric8.kubernetes.client.dsl.base.PatchType;
import io.fabric8.kubernetes.client.dsl.base.ResourceDefinitionContext;
import io.fabric8.kubernetes.client.utils.Serialization;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.function.Supplier;

/**
 * ExecutorFleets in the API server, with the client that Spark has.
 *
 * <p>The document is written with server-side apply: fields that this class wrote and no longer writes disappear, and
 * fields of others stay. Rejected: a merge patch, which would leave parts of an older pod in the new one when an
 * application with a fixed {@code podNamePrefix} runs again.
 */
final class ApiFleets implements Fleets {
  static final String GROUP = "rollcall.dev";
  static final String VERSION = "v1alpha1";
  static final String API_VERSION = GROUP + "/" + VERSION;
  static final String KIND = "ExecutorFleet";
  static final String PLURAL = "executorfleets";
  /** The owner of the fields, as `kubectl get --show-managed-fields` shows it. */
  static final String FIELD_MANAGER = "rollcall-spark-allocator";

  private static final ResourceDefinitionContext CONTEXT =
      new ResourceDefinitionContext.Builder()
          .withGroup(GROUP)
          .withVersion(VERSION)
          .withKind(KIND)
          .withPlural(PLURAL)
          .withNamespaced(true)
          .build();

  private final KubernetesClient client;
  private final String namespace;
  /** The scale subresource does not exist, or is not allowed: the document itself is patched. */
  private volatile boolean withoutScale;

  ApiFleets(KubernetesClient client, String namespace) {
    this.client = client;
    this.namespace = namespace;
  }

  @Override
  public void apply(Map<String, Object> document) {
    GenericKubernetesResource fleet =
        Serialization.unmarshal(Serialization.asJson(document), GenericKubernetesResource.class);
    request(
        "patch",
        PLURAL,
        () -> fleets().resource(fleet).fieldManager(FIELD_MANAGER).forceConflicts().serverSideApply(),
        Problem.Kind.ABSENT);
  }

  @Override
  public void scale(String name, int executors) {
    if (!withoutScale) {
      try {
        request("update", PLURAL + "/scale", () -> putScale(name, executors), Problem.Kind.GONE);
        return;
      } catch (Problem problem) {
        // GONE: the fleet, or only the subresource. The patch tells which.
        if (problem.kind != Problem.Kind.FORBIDDEN && problem.kind != Problem.Kind.GONE) {
          throw problem;
        }
      }
    }
    Map<String, Object> spec = Collections.<String, Object>singletonMap("executors", executors);
    String patch = Serialization.asJson(Collections.singletonMap("spec", spec));
    request(
        "patch",
        PLURAL,
        () -> fleets().withName(name).patch(PatchContext.of(PatchType.JSON_MERGE), patch),
        Problem.Kind.GONE);
    withoutScale = true;
  }

  private String putScale(String name, int executors) {
    Map<String, Object> metadata = new LinkedHashMap<>();
    metadata.put("name", name);
    metadata.put("namespace", namespace);
    Map<String, Object> scale = new LinkedHashMap<>();
    scale.put("apiVersion", "autoscaling/v1");
    scale.put("kind", "Scale");
    scale.put("metadata", metadata);
    scale.put("spec", Collections.singletonMap("replicas", executors));
    String path = "/apis/" + API_VERSION + "/namespaces/" + namespace + "/" + PLURAL + "/" + name + "/scale";
    return client.raw(path, "PUT", scale);
  }

  @Override
  public State state(String name) {
    GenericKubernetesResource fleet =
        request("get", PLURAL, () -> fleets().withName(name).get(), Problem.Kind.GONE);
    if (fleet == null) {
      throw new Problem(Problem.Kind.GONE, "the ExecutorFleet " + namespace + "/" + name + " does not exist", null);
    }
    // A fleet of an earlier application with the same podNamePrefix has a status, too: an older one.
    Object observed = fleet.get("status", "observedGeneration");
    Long generation = fleet.getMetadata().getGeneration();
    boolean seen =
        observed instanceof Number && (generation == null || ((Number) observed).longValue() >= generation);
    return seen ? State.SEEN : State.UNSEEN;
  }

  @Override
  public void delete(String name) {
    request("delete", PLURAL, () -> fleets().withName(name).delete(), Problem.Kind.GONE);
  }

  private NonNamespaceOperation<
          GenericKubernetesResource, GenericKubernetesResourceList, Resource<GenericKubernetesResource>>
      fleets() {
    return client.genericKubernetesResources(CONTEXT).inNamespace(namespace);
  }

  /** Sends a request; an error becomes a problem with its remedy. */
  private <T> T request(String verb, String resource, Supplier<T> request, Problem.Kind notFound) {
    try {
      return request.get();
    } catch (KubernetesClientException error) {
      throw problem(verb, resource, error, notFound);
    }
  }

  private Problem problem(String verb, String resource, KubernetesClientException error, Problem.Kind notFound) {
    Status status = error.getStatus();
    String said = " The API server said: " + (status == null ? error.getMessage() : status.getMessage()) + ".";
    switch (error.getCode()) {
      case 404:
        if (notFound == Problem.Kind.ABSENT) {
          return absent(said, error);
        }
        return new Problem(notFound, "Not found: " + resource + " in the namespace " + namespace + "." + said, error);
      case 403:
        // RBAC answers first: a driver without rights is not told that the resource does not exist.
        if (!served()) {
          return absent(said, error);
        }
        String rule =
            "The driver's service account may not " + verb + " " + resource + " in the namespace " + namespace
                + ". Add to its Role: {apiGroups: [" + GROUP + "], resources: [" + resource + "], verbs: ["
                + ("patch".equals(verb) ? "create, patch" : verb) + "]}.";
        return new Problem(Problem.Kind.FORBIDDEN, rule + said, error);
      case 400:
      case 405:
      case 413:
      case 415:
      case 422:
        String refused =
            "The API server refuses the ExecutorFleet. If it names a field, Rollcall's custom resources may be older"
                + " than this jar: update them. A field below spec that this jar does not write itself comes from a"
                + " spark.rollcall.fleet.* setting.";
        return new Problem(Problem.Kind.REFUSED, refused + said, error);
      default:
        String cannot = "Cannot " + verb + " " + resource + " in the namespace " + namespace + ".";
        return new Problem(Problem.Kind.PASSING, cannot + said, error);
    }
  }

  private Problem absent(String said, KubernetesClientException error) {
    String message =
        "The cluster does not know ExecutorFleets (" + API_VERSION + "), or the namespace " + namespace
            + " does not exist. Install Rollcall with its custom resources, or remove"
            + " spark.kubernetes.allocation.pods.allocator to let Spark create the executors.";
    return new Problem(Problem.Kind.ABSENT, message + said, error);
  }

  /** Whether the API server has the custom resource. Every service account may ask for that. */
  private boolean served() {
    try {
      APIResourceList resources = client.getApiResources(API_VERSION);
      return resources != null
          && resources.getResources().stream().anyMatch(resource -> PLURAL.equals(resource.getName()));
    } catch (KubernetesClientException error) {
      return true;
    }
  }
}
