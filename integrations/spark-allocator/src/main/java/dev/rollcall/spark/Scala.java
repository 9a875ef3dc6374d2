package dev.rollcall.spark;

import java.util.ArrayList;
import java.util.List;
import scala.Option;
import scala.Tuple2;
import scala.collection.Iterator;

/** Scala's collections and options, in Java's terms. The same source for Scala 2.12 and 2.13. */
final class Scala {
  private Scala() {}

  static <T> List<T> list(scala.collection.Iterable<T> items) {
    List<T> list = new ArrayList<>();
    Iterator<T> iterator = items.iterator();
    while (iterator.hasNext()) {
      list.add(iterator.next());
    }
    return list;
  }

  /** The value, or null. */
  static <T> T orNull(Option<T> option) {
    return option.isDefined() ? option.get() : null;
  }

  static <K, V> scala.collection.immutable.Map<K, V> map(java.util.Map<K, V> entries) {
    scala.collection.immutable.Map<K, V> map = scala.collection.immutable.Map$.MODULE$.<K, V>empty();
    for (java.util.Map.Entry<K, V> entry : entries.entrySet()) {
      map = map.$plus(new Tuple2<K, V>(entry.getKey(), entry.getValue()));
    }
    return map;
  }
}
