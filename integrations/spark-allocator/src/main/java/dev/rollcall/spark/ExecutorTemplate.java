package dev.rollcall.spark;

import io.fabric8.kubernetes.api.model.HasMetadata;
import io.fabric8.kubernetes.api.model.PersistentVolumeClaim;
import io.fabric8.kubernetes.api.model.Pod;
import io.fabric8.kubernetes.api.model.PodBuilder;
import io.fabric8.kubernetes.client.KubernetesClient;
import io.fabric8.kubernetes.client.utils.Serialization;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.regex.Pattern;
import org.apache.spark.SecurityManager;
import org.apache.spark.SparkConf;
import org.apache.spark.deploy.k8s.KubernetesConf$;
import org.apache.spark.deploy.k8s.KubernetesExecutorSpec;
import org.apache.spark.resource.ResourceProfile;
import org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBuilder;
import scala.Option;

/**
 * An executor's pod as Spark makes it, with {@code {{EXECUTOR_ID}}} in place of the executor's id.
 *
 * <p>Spark's builder needs an id that is a number: it truncates the host name and replaces everything in it that a host
 * name must not have, so a placeholder would not come out as it went in. The pod is made with a number that occurs
 * nowhere else, and the number is replaced afterwards. It is made a second time with another number, of another length:
 * where the two pods differ afterwards, the pod depends on the id in a way that a placeholder cannot express.
 */
final class ExecutorTemplate {
  static final String PLACEHOLDER = "{{EXECUTOR_ID}}";

  /** Below 2147483648, because Spark reads ids as an int. */
  private static final String FIRST = "2046813579";

  private static final String SECOND = "190817264";

  private static final Pattern LOCAL_DIR = Pattern.compile("/var/data/spark-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}");

  /** Metadata (labels, annotations) and spec. */
  final Map<String, Object> pod;
  /** The name of the container that runs the executor. */
  final String container;
  /** What the pod needs besides itself, once for all executors. */
  final List<HasMetadata> shared;
  /** What an operator should know. */
  final List<String> remarks;

  private ExecutorTemplate(Map<String, Object> pod, String container, List<HasMetadata> shared, List<String> remarks) {
    this.pod = pod;
    this.container = container;
    this.shared = shared;
    this.remarks = remarks;
  }

  /** Lets Spark make the pod of an executor. `fleet` is the part of the pod's name before {@code -exec-}. */
  static ExecutorTemplate make(
      SparkConf conf,
      SecurityManager security,
      KubernetesExecutorBuilder builder,
      KubernetesClient client,
      Option<Pod> driver,
      String applicationId,
      ResourceProfile profile,
      String fleet) {
    Made first = new Made(conf, security, builder, client, driver, applicationId, profile, FIRST);
    Made second = new Made(conf, security, builder, client, driver, applicationId, profile, SECOND);
    List<String> remarks = new ArrayList<>();

    List<String> literal = new ArrayList<>();
    find("", first.pod, PLACEHOLDER, literal);
    if (!literal.isEmpty()) {
      remarks.add(
          "Rollcall substitutes " + PLACEHOLDER + " in the whole pod, Spark only in JVM options, labels, annotations"
              + " and volumes. It also stands in: " + String.join(", ", literal));
    }
    Map<String, Object> pod = template(first, fleet, remarks);
    List<String> differences = new ArrayList<>();
    differ("", settled(pod), settled(template(second, fleet, new ArrayList<>())), differences);
    if (!differences.isEmpty()) {
      remarks.add(
          "These fields depend on the executor's id, or change each time that the pod is made; all executors get the"
              + " same: " + String.join(", ", differences));
    }
    List<HasMetadata> shared = new ArrayList<>();
    for (HasMetadata resource : first.resources) {
      if (!resource.getMetadata().getName().contains(FIRST)) {
        shared.add(resource);
      } else if (!(resource instanceof PersistentVolumeClaim)) {
        remarks.add(
            "A feature step wants a " + resource.getKind() + " for each executor ("
                + resource.getMetadata().getName().replace(FIRST, PLACEHOLDER) + "). Neither Rollcall nor Spark's own"
                + " allocator creates it");
      }
    }
    return new ExecutorTemplate(pod, first.container, shared, remarks);
  }

  /** One run of Spark's builder. */
  private static final class Made {
    final String id;
    final Map<String, Object> pod;
    final String container;
    final List<HasMetadata> resources;

    Made(
        SparkConf conf,
        SecurityManager security,
        KubernetesExecutorBuilder builder,
        KubernetesClient client,
        Option<Pod> driver,
        String applicationId,
        ResourceProfile profile,
        String id) {
      KubernetesExecutorSpec spec =
          builder.buildFromFeatures(
              KubernetesConf$.MODULE$.createExecutorConf(conf, id, applicationId, driver, profile.id()),
              security,
              client,
              profile);
      this.id = id;
      this.pod = tree(whole(spec));
      this.container = spec.pod().container().getName();
      this.resources = Scala.list(spec.executorKubernetesResources());
    }
  }

  /** The pod with the executor's container in it, as Spark's own allocator would create it. */
  static Pod whole(KubernetesExecutorSpec spec) {
    return new PodBuilder(spec.pod().pod())
        .editOrNewSpec()
        .addToContainers(spec.pod().container())
        .endSpec()
        .build();
  }

  @SuppressWarnings("unchecked")
  static Map<String, Object> tree(Object object) {
    return Serialization.unmarshal(Serialization.asJson(object), LinkedHashMap.class);
  }

  private static Map<String, Object> template(Made made, String fleet, List<String> remarks) {
    Map<String, Object> pod = map(copy(made.pod));
    Map<String, Object> metadata = map(pod.get("metadata"));
    Map<String, Object> kept = new LinkedHashMap<>();
    // Name, namespace and owner are Rollcall's.
    for (String field : new String[] {"labels", "annotations"}) {
      if (metadata != null && metadata.get(field) != null) {
        kept.put(field, metadata.get(field));
      }
    }
    if (metadata != null && metadata.get("finalizers") != null) {
      remarks.add("The pod's finalizers are left out: an executor that ended would stay");
    }
    Map<String, Object> spec = map(pod.get("spec"));
    // Spark truncates it to 63 characters. A fleet's name has at most 46, so nothing has to be.
    if (spec.get("hostname") instanceof String && ((String) spec.get("hostname")).contains(made.id)) {
      spec.put("hostname", fleet + "-exec-" + PLACEHOLDER);
    }
    claims(spec, made);
    Map<String, Object> template = new LinkedHashMap<>();
    template.put("metadata", kept);
    template.put("spec", spec);
    return map(replace(template, made.id));
  }

  /**
   * A claim that Spark would create for each executor becomes a generic ephemeral volume: Kubernetes creates the claim
   * with the pod, and deletes it with the pod.
   */
  private static void claims(Map<String, Object> spec, Made made) {
    if (!(spec.get("volumes") instanceof List)) {
      return;
    }
    for (Object each : (List<?>) spec.get("volumes")) {
      Map<String, Object> volume = map(each);
      Map<String, Object> source = map(volume.get("persistentVolumeClaim"));
      if (source == null) {
        continue;
      }
      for (HasMetadata resource : made.resources) {
        String name = resource.getMetadata().getName();
        if (!(resource instanceof PersistentVolumeClaim)
            || !name.equals(source.get("claimName"))
            || !name.contains(made.id)) {
          continue;
        }
        Map<String, Object> claim = tree(resource);
        Map<String, Object> metadata = map(claim.get("metadata"));
        Map<String, Object> kept = new LinkedHashMap<>();
        for (String field : new String[] {"labels", "annotations"}) {
          if (metadata.get(field) != null) {
            kept.put(field, metadata.get(field));
          }
        }
        Map<String, Object> template = new LinkedHashMap<>();
        if (!kept.isEmpty()) {
          template.put("metadata", kept);
        }
        template.put("spec", claim.get("spec"));
        Map<String, Object> ephemeral = new LinkedHashMap<>();
        ephemeral.put("volumeClaimTemplate", template);
        volume.remove("persistentVolumeClaim");
        volume.put("ephemeral", ephemeral);
      }
    }
  }

  /** Whether a volume of the pod is a claim that Spark would have created on demand. */
  boolean hasClaims() {
    Object volumes = map(pod.get("spec")).get("volumes");
    if (volumes instanceof List) {
      for (Object volume : (List<?>) volumes) {
        if (map(volume).containsKey("ephemeral")) {
          return true;
        }
      }
    }
    return false;
  }

  @SuppressWarnings("unchecked")
  static Map<String, Object> map(Object value) {
    return (Map<String, Object>) value;
  }

  private static Object copy(Object value) {
    return replace(value, null);
  }

  /** A deep copy, in which the id (if any) is the placeholder in every text. */
  private static Object replace(Object value, String id) {
    if (value instanceof Map) {
      Map<String, Object> result = new LinkedHashMap<>();
      ExecutorTemplate.map(value).forEach((key, field) -> result.put(key, replace(field, id)));
      return result;
    }
    if (value instanceof List) {
      List<Object> result = new ArrayList<>();
      ((List<?>) value).forEach(item -> result.add(replace(item, id)));
      return result;
    }
    return value instanceof String && id != null ? ((String) value).replace(id, PLACEHOLDER) : value;
  }

  private static void find(String path, Object value, String text, List<String> found) {
    if (value instanceof Map) {
      map(value).forEach((key, field) -> find(path + "." + key, field, text, found));
    } else if (value instanceof List) {
      for (int at = 0; at < ((List<?>) value).size(); at++) {
        find(path + "[" + at + "]", ((List<?>) value).get(at), text, found);
      }
    } else if (value instanceof String && ((String) value).contains(text)) {
      found.add(path.substring(1));
    }
  }

  /** Adds the paths at which two trees differ. */
  static void differ(String path, Object left, Object right, List<String> differences) {
    if (left instanceof Map && right instanceof Map) {
      Map<String, Object> keys = new LinkedHashMap<>(map(left));
      map(right).forEach(keys::putIfAbsent);
      for (String key : keys.keySet()) {
        differ(path.isEmpty() ? key : path + "." + key, map(left).get(key), map(right).get(key), differences);
      }
    } else if (left instanceof List && right instanceof List && ((List<?>) left).size() == ((List<?>) right).size()) {
      for (int at = 0; at < ((List<?>) left).size(); at++) {
        differ(path + "[" + at + "]", ((List<?>) left).get(at), ((List<?>) right).get(at), differences);
      }
    } else if (!Objects.equals(left, right)) {
      differences.add(path);
    }
  }

  /**
   * A copy for comparisons, without what Spark draws by lot each time that it makes a pod: the order of the local
   * directories, and without spark.local.dir the name of the only one. They are directories of volumes that only this
   * pod has, so the executors of a template may all have the same.
   */
  static Map<String, Object> settled(Map<String, Object> pod) {
    Map<String, Object> copy = map(copy(pod));
    for (Object each : (List<?>) map(copy.get("spec")).getOrDefault("containers", new ArrayList<>())) {
      Map<String, Object> container = map(each);
      for (Object variable : (List<?>) container.getOrDefault("env", new ArrayList<>())) {
        if ("SPARK_LOCAL_DIRS".equals(map(variable).get("name"))) {
          String[] directories = ((String) map(variable).get("value")).split(",");
          for (int at = 0; at < directories.length; at++) {
            directories[at] = anonymous(directories[at]);
          }
          Arrays.sort(directories);
          map(variable).put("value", String.join(",", directories));
        }
      }
      List<Map<String, Object>> mounts = new ArrayList<>();
      List<String> paths = new ArrayList<>();
      for (Object mount : (List<?>) container.getOrDefault("volumeMounts", new ArrayList<>())) {
        if (String.valueOf(map(mount).get("name")).startsWith("spark-local-dir-")) {
          mounts.add(map(mount));
          paths.add(anonymous((String) map(mount).get("mountPath")));
        }
      }
      Collections.sort(paths);
      for (int at = 0; at < mounts.size(); at++) {
        mounts.get(at).put("mountPath", paths.get(at));
      }
    }
    return copy;
  }

  private static String anonymous(String directory) {
    return LOCAL_DIR.matcher(directory).matches() ? "/var/data/spark-UUID" : directory;
  }
}
