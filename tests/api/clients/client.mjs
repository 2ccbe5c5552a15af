// The JavaScript client on a server: write, read, watch, an informer, patches, errors.
import * as k8s from '@kubernetes/client-node';
import assert from 'node:assert';

const config = new k8s.KubeConfig();
config.loadFromFile(process.env.KUBECONFIG);
const core = config.makeApiClient(k8s.CoreV1Api);
const namespace = 'js-' + Math.random().toString(16).slice(2, 10);
await core.createNamespace({ body: { metadata: { name: namespace } } });

const made = await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'a' }, data: { k: 'v' } } });
assert.ok(made.metadata.uid);
const changed = await core.replaceNamespacedConfigMap({ name: 'a', namespace, body: { ...made, data: { k: 'w' } } });
assert.equal(changed.data.k, 'w');
const stale = core.replaceNamespacedConfigMap({ name: 'a', namespace, body: made });
await assert.rejects(stale, (error) => error.code === 409 && String(error.body).includes('the object has been modified'));
await assert.rejects(core.readNamespacedConfigMap({ name: 'none', namespace }), (error) => error.code === 404);

const list = () => core.listNamespacedConfigMap({ namespace });
const informer = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/configmaps`, list);
const seen = [];
const done = new Promise((resolve, reject) => {
  informer.on('add', (object) => seen.push('add ' + object.metadata.name));
  informer.on('update', (object) => seen.push('update ' + object.metadata.name));
  informer.on('delete', (object) => { seen.push('delete ' + object.metadata.name); if (object.metadata.name === 'b') resolve(); });
  informer.on('error', reject);
  setTimeout(() => reject(new Error('no deletion came: ' + seen)), 20000).unref();
});
await informer.start();
await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'b' } } });
await core.replaceNamespacedConfigMap({ name: 'b', namespace, body: { metadata: { name: 'b' }, data: { x: '1' } } });
await core.deleteNamespacedConfigMap({ name: 'b', namespace });
await done;
await informer.stop();
const of = (name) => seen.filter((event) => event.endsWith(' ' + name));
assert.deepEqual(of('b'), ['add b', 'update b', 'delete b']);
assert.equal(of('a')[0], 'add a');

const objects = k8s.KubernetesObjectApi.makeApiClient(config);
const map = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'o', namespace }, data: { k: '1' } };
await objects.create(map);
const read = await objects.read(map);
assert.equal(read.data.k, '1');
await objects.patch({ ...map, data: { k: '2' } }, undefined, undefined, 'js', true, k8s.PatchStrategy.ServerSideApply);
assert.equal((await objects.read(map)).data.k, '2');
await core.deleteNamespace({ name: namespace });
console.log('the JavaScript client is content');
process.exit(0);
